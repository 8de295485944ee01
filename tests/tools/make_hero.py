"""Generate the picture of the README, web/docs/hero.jpg, with the bundled model.

    migm evaluate --methods "vanilla; shortcut; vanilla 16" --out figures.json
    python tests/tools/make_hero.py --figures figures.json

Rows: vanilla; the shortcut at the model's own budget; vanilla in as few steps as take about as long. Columns: the first unseen prompts,
two of one object, three of two, all with one seed. A cross marks an image in which the judge found a fault. Five images tell little
of a method's accuracy: with the figures of migm evaluate each row says it for many prompts. Seconds are of the CPU: what the process used
in all its threads, so that other work on the machine hardly counts; run it with OMP_NUM_THREADS=1.
"""

import argparse
import json
import statistics
import sys
import textwrap
import time
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from migm_core.pipeline import Pipeline  # noqa: E402
from migm_core.worlds.evaluate import as_tensor, unseen_prompts  # noqa: E402
from migm_core.worlds.lakeside import judge, parse  # noqa: E402

SEED = 1  # chosen before any of its images was seen
FEW_STEPS = 16  # of vanilla: about the time of the bundled model's own settings
COLUMNS = {1: 2, 2: 3}  # objects: how many prompts
ROUNDS = 1  # of timing
SIDE, GAP, LEFT, TOP, BOTTOM = 256, 12, 176, 122, 34  # pixels
PAPER, INK, GREY, FAULT = (250, 250, 250), (20, 20, 20), (85, 85, 90), (200, 30, 40)


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate the picture of the README with the bundled model.")
    parser.add_argument("--figures", type=Path, metavar="PATH", help="what migm evaluate --out wrote: adds accuracies to the rows")
    args = parser.parse_args()
    figures = {(row["method"], row["steps"]): row for row in json.loads(args.figures.read_text())} if args.figures else {}
    pipeline = Pipeline.load(dtype="fp32", device="cpu")
    scenes, prompts = unseen_prompts(pipeline, 100)
    counts = scenes.present.sum(1).tolist()
    shown = [prompt for objects, number in COLUMNS.items() for prompt in [p for p, count in zip(prompts, counts) if count == objects][:number]]
    ways = {"Vanilla": {"method": "vanilla"}, "Shortcut": {"method": "shortcut"}, "Vanilla, few steps": {"method": "vanilla", "steps": FEW_STEPS}}
    images, seconds, full = measure(pipeline, shown, list(ways.values()))
    sheet = Image.new("RGB", (LEFT + len(shown) * (SIDE + GAP), TOP + len(ways) * (SIDE + GAP) + BOTTOM), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, prompt in enumerate(shown):
        text = "\n".join(textwrap.wrap(prompt, 32))
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
        for column, (image, verdict) in enumerate(zip(images[row], judge(as_tensor(images[row]), parse(shown)))):
            left = LEFT + column * (SIDE + GAP)
            sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, top))
            if not verdict.right:
                cross(pen, left, top)
    words = f"Bundled model, {SIDE}x{SIDE} pixels, seed {SEED} for all. A red cross: the judge found a fault. Times: one CPU thread, median."
    pen.text((GAP, sheet.height - BOTTOM + 6), words, GREY, ImageFont.load_default(15))
    path = REPOSITORY / "web" / "docs" / "hero.jpg"
    sheet.save(path, quality=88)
    print(f"{path}: seconds {[round(statistics.median(each), 3) for each in seconds]}")


def measure(pipeline: Pipeline, prompts: list[str], ways: list[dict]) -> tuple[list[list[Image.Image]], list[list[float]], list[int]]:
    """Images of each way, their seconds, and the most full steps; in each round the ways take turns."""
    images, seconds, full = [[] for _ in ways], [[] for _ in ways], [0] * len(ways)
    for round_ in range(ROUNDS):
        for prompt in prompts:
            for k, way in enumerate(ways):
                began = time.process_time()
                result = pipeline.generate(prompt, seed=SEED, **way)
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
