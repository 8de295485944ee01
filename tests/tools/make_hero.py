"""Generate the picture of the README, web/docs/hero.png, with the bundled model.

    migm evaluate work --model demo --methods "vanilla; shortcut 9; vanilla 16" --out figures.json
    python tests/tools/make_hero.py --figures figures.json

Rows: vanilla; the shortcut at the model's own budget; vanilla in as few steps as take about as long. Columns: the first unseen prompts,
one of one object, two of two, three of three, all with one seed. A cross marks an image in which the judge found a fault. Six images tell little
of a method's accuracy: with the figures of migm evaluate each row says it for many prompts. Seconds are of one CPU thread: what the process used,
so that other work on the machine hardly counts.
"""

import argparse
import json
import statistics
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from migm_core.pipeline import Pipeline  # noqa: E402
from migm_core.worlds.shapes.evaluate import unseen_scenes  # noqa: E402
from migm_core.worlds.shapes.judge import judge  # noqa: E402

SEED = 1  # chosen before any of its images was seen
FEW_STEPS = 16  # of vanilla: about the time of the bundled model's own settings
COLUMNS = {1: 1, 2: 2, 3: 3}  # objects: how many prompts
ROUNDS = 3  # of timing
SIDE, GAP, LEFT, TOP, BOTTOM = 192, 12, 176, 122, 34  # pixels
PAPER, INK, GREY, FAULT = (250, 250, 250), (20, 20, 20), (85, 85, 90), (200, 30, 40)


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate the picture of the README with the bundled model.")
    parser.add_argument("--figures", type=Path, metavar="PATH", help="what migm evaluate --out wrote: adds accuracies to the rows")
    args = parser.parse_args()
    figures = {(row["method"], row["steps"]): row for row in json.loads(args.figures.read_text())} if args.figures else {}
    pipeline = Pipeline.load(dtype="fp32", device="cpu")
    scenes = unseen_scenes(500, "test")
    shown = [scene for objects, count in COLUMNS.items() for scene in [s for s in scenes if len(s.objects) == objects][:count]]
    ways = {"Vanilla": {"method": "vanilla"}, "Shortcut": {"method": "shortcut"}, "Vanilla, few steps": {"method": "vanilla", "steps": FEW_STEPS}}
    images, seconds, full = measure(pipeline, [scene.caption for scene in shown], list(ways.values()))
    sheet = Image.new("RGB", (LEFT + len(shown) * (SIDE + GAP), TOP + len(ways) * (SIDE + GAP) + BOTTOM), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, scene in enumerate(shown):
        text = "\n".join(textwrap.wrap(scene.caption, 24))
        pen.text((LEFT + column * (SIDE + GAP), TOP - 10), text, INK, ImageFont.load_default(15.5), anchor="ld")
    for row, (name, way) in enumerate(ways.items()):
        top, steps = TOP + row * (SIDE + GAP), pipeline.settings(**way).steps
        measured = figures.get((way["method"], steps))
        of_row = statistics.median(seconds[row])
        faster = statistics.median(first / own for first, own in zip(seconds[0], seconds[row]))
        lines = [f"{full[row]} full steps" if steps == full[row] else f"{full[row]} full steps of {steps}", f"{of_row:.2f} s an image"]
        lines += [f"{faster:.1f} times as fast"] if row else []
        lines += [f"{measured['accuracy'][0]:.0%} of {measured['prompts']} right"] if measured else []
        pen.text((GAP, top + 50), name, INK, ImageFont.load_default(17))
        for line, text in enumerate(lines):
            pen.text((GAP, top + 78 + 22 * line), text, GREY, ImageFont.load_default(15))
        for column, (scene, image) in enumerate(zip(shown, images[row])):
            left = LEFT + column * (SIDE + GAP)
            sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, top))
            if not judge(np.asarray(image, np.float32) / 255, scene).right:
                cross(pen, left, top)
    words = f"Bundled model, 64x64 pixels, seed {SEED} for all. A red cross: the judge found a fault. Times: one CPU thread, median."
    pen.text((GAP, sheet.height - BOTTOM + 6), words, GREY, ImageFont.load_default(15))
    path = REPOSITORY / "web" / "docs" / "hero.png"
    sheet.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: seconds {[round(statistics.median(each), 3) for each in seconds]}")


def measure(pipeline: Pipeline, captions: list[str], ways: list[dict]) -> tuple[list[list[Image.Image]], list[list[float]], list[int]]:
    """Images of each way, their seconds, and the most full steps; in each round the ways take turns."""
    images, seconds, full = [[] for _ in ways], [[] for _ in ways], [0] * len(ways)
    for round_ in range(ROUNDS):
        for caption in captions:
            for k, way in enumerate(ways):
                began = time.process_time()
                result = pipeline.generate(caption, seed=SEED, **way)
                seconds[k].append(time.process_time() - began)
                full[k] = max(full[k], len(result.full_steps))
                if not round_:
                    images[k].append(result.images[0])
    return images, seconds, full


def cross(pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
    """A red frame, and a cross in its corner."""
    right, bottom = left + SIDE - 1, top + SIDE - 1
    pen.rectangle((left - 3, top - 3, right + 3, bottom + 3), outline=FAULT, width=4)
    pen.rectangle((right - 25, top, right, top + 25), fill=FAULT)
    for ends in ((-20, 5, -5, 20), (-20, 20, -5, 5)):
        pen.line([right + ends[0], top + ends[1], right + ends[2], top + ends[3]], fill=PAPER, width=3)


if __name__ == "__main__":
    main()
