"""Draw the pictures of the README and the thumbnails of the example workflows with the bundled model: python tests/make_thumbnails.py

Each thumbnail shows what its workflow draws, by the same prompts and seeds. The one for Lumina-DiMOO shows how a picture fills in,
drawn by the bundled model too, so that no weights need to be downloaded. The README's picture shows the first unseen scenes of each
number of objects, drawn three ways.
"""

import sys
from types import SimpleNamespace

import numpy as np
import torch
from nodes_without_host import REPOSITORY, room, schemas
from PIL import Image, ImageDraw, ImageFont
from workflows import FOLDER, NAMES, inputs_of_schema, load, values

sys.path.insert(0, str(REPOSITORY))
from migm_core.evaluation.evaluate import unseen_scenes  # noqa: E402
from migm_core.pipeline import Pipeline  # noqa: E402

SIDE = 512  # pixels
GAP = 12
DARK = (24, 24, 27)


def nodes(name: str, kind: str) -> list[dict]:
    """Values of a workflow's nodes of one type, in order."""
    return [values(node, inputs_of_schema(schemas()[kind])) for node in load(name)["nodes"] if node["type"] == kind]


def enlarged(picture: Image.Image, side: int = SIDE) -> Image.Image:
    return picture.resize((side, side), Image.Resampling.NEAREST)


def tiled(pictures: list[Image.Image], columns: int) -> Image.Image:
    side, rows = pictures[0].width, -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (side + GAP) - GAP, rows * (side + GAP) - GAP), DARK)
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * (side + GAP), index // columns * (side + GAP)))
    return sheet


def picture_of(pipeline: Pipeline, canvas) -> Image.Image:
    """As Decode Canvas shows it, with what is unknown."""
    model = SimpleNamespace(checkpoint=pipeline.checkpoint, factor=factor_of(pipeline), image_tokenizer=SimpleNamespace(load_device=pipeline.device))
    pixels = room("pictures").decode(model, canvas.codes[0], canvas.unknown[0].cpu()).permute(1, 2, 0)
    return Image.fromarray((pixels * 255).round().byte().numpy())


def factor_of(pipeline: Pipeline) -> int:
    return pipeline.checkpoint.image_tokenizer.config.factor


def demo_text_to_image(pipeline: Pipeline) -> Image.Image:
    (prompt,), (sampler,) = (nodes("demo_text_to_image", kind) for kind in ("MIGMPrompt", "MIGMShortcutSampler"))
    return enlarged(pipeline.generate(prompt["text"], seed=sampler["seed"]).images[0])


def lumina_dimoo_text_to_image(pipeline: Pipeline) -> Image.Image:
    (prompt,), (sampler,) = (nodes("demo_text_to_image", kind) for kind in ("MIGMPrompt", "MIGMShortcutSampler"))
    seen = []

    def look(report):
        if (report.step + 1) * 4 % report.steps < 4:  # four times in a run
            seen.append(picture_of(pipeline, report.canvas))

    pipeline.generate(prompt["text"], seed=sampler["seed"] + 1, callback=look)
    return tiled([enlarged(picture, SIDE // 2) for picture in seen], 2)


def inpainting(pipeline: Pipeline) -> Image.Image:
    (before, after), (first, second) = (nodes("inpainting", kind) for kind in ("MIGMPrompt", "MIGMShortcutSampler"))
    start = pipeline.generate(before["text"], seed=first["seed"])
    known = pipeline.encode(pipeline.decode(start.canvas))
    hole = known.unknown.clone()
    hole[:, :, hole.shape[2] // 2 :] = True
    canvas = known.masked_with(hole)
    finished = pipeline.generate(after["text"], seed=second["seed"], canvas=canvas)
    return tiled([enlarged(picture, SIDE // 2) for picture in (start.images[0], picture_of(pipeline, canvas), finished.images[0])], 3)


def compare_methods(pipeline: Pipeline) -> Image.Image:
    (prompt,), (asked,) = (nodes("compare_methods", kind) for kind in ("MIGMPrompt", "MIGMCompareMethods"))
    compare, run, own = room("compare"), room("run"), pipeline.checkpoint.settings
    images, labels = [], []
    for name, way in compare.parse(asked["methods"]).items():
        numbers = {key: way.get(key, own[key]) for key in ("steps", "budget")}
        resolved = run.resolve(own, way["preset"], way["method"], True, **numbers)
        chosen = {"method": resolved.method, "steps": resolved.steps, "budget": resolved.budget}
        result = pipeline.generate(prompt["text"], seed=asked["seed"], **chosen)
        images.append(torch.from_numpy(np.array(result.images[0])).float() / 255)
        labels.append([name, f"{len(result.full_steps)} of {resolved.steps} steps full"])
    sheet = compare.contact_sheet(images, labels)[0]
    picture = Image.fromarray((sheet * 255).byte().numpy())
    picture.thumbnail((1024, 1024), Image.Resampling.LANCZOS)
    return picture


FEW_STEPS = 17  # of vanilla, which take about as long as the bundled model's own settings


def hero(pipeline: Pipeline) -> Image.Image:
    """Rows: all steps full, the model's own settings, as few steps as take that long. Columns: scenes."""
    side, gap, left = 160, 8, 142
    own = pipeline.checkpoint.settings
    ways = {
        "vanilla": ({"method": "vanilla"}, f"{own['steps']} full steps of {own['steps']}"),
        "shortcut": ({"method": "shortcut"}, f"{own['budget']} full steps of {own['steps']}"),
        f"vanilla, {FEW_STEPS} steps": ({"method": "vanilla", "steps": FEW_STEPS}, f"{FEW_STEPS} full steps of {FEW_STEPS}"),
    }
    scenes = unseen_scenes(500, "test")
    shown = [scene for objects, count in ((1, 1), (2, 2), (3, 3)) for scene in [s for s in scenes if len(s.things) == objects][:count]]
    sheet = Image.new("RGB", (left + len(shown) * (side + gap), len(ways) * (side + gap) + gap), (250, 250, 250))
    pen = ImageDraw.Draw(sheet)
    for row, (name, (settings, words)) in enumerate(ways.items()):
        top = gap + row * (side + gap)
        pen.text((gap, top + 54), name, fill=(20, 20, 20), font=ImageFont.load_default(14))
        pen.text((gap, top + 78), words, fill=(90, 90, 90), font=ImageFont.load_default(12))
        for column, scene in enumerate(shown):
            picture = pipeline.generate(scene.caption, seed=2, **settings).images[0]
            sheet.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (left + column * (side + gap), top))
    return sheet


if __name__ == "__main__":
    demo = Pipeline.load(dtype="fp32")
    hero(demo).save(REPOSITORY / "web" / "docs" / "hero.png", optimize=True)
    for name in NAMES:
        globals()[name](demo).save(FOLDER / f"{name}.jpg", quality=90)
        print(FOLDER / f"{name}.jpg")
