"""Generate the thumbnails of the example workflows, and the registry's pictures, with the bundled models: python tests/make_thumbnails.py [NAME ...]

Each thumbnail shows what its workflow gives, by the same prompts, seeds and numbers. Nobody has Lumina-DiMOO's weights here: of its text to
image a thumbnail shows how an image of the bundled model fills in, and says so; of its other tasks what goes in, a drawn picture and the
workflow's own words, and an empty place where its result would be.
"""

import sys
from types import SimpleNamespace

import numpy as np
import torch
from nodes_without_host import REPOSITORY, room, schemas
from PIL import Image, ImageDraw, ImageFont
from workflows import FOLDER, NAMES, inputs_of_schema, load, values

sys.path.insert(0, str(REPOSITORY))
from migm_core.pipeline import Pipeline  # noqa: E402
from migm_core.worlds.lakeside import judge, parse, render, sample_scenes  # noqa: E402

SIDE = 512  # pixels
GAP = 12
DARK = (24, 24, 27)
LIGHT, GREY, EMPTY = (240, 240, 240), (165, 165, 170), (44, 44, 49)
SCENE_SEED = 5
NO_RESULT = "Needs Lumina-DiMOO's files.", "No result is shown: they were never run here."
BANNER = (
    "a clear lake at sunset with a red house on a grassy shore",
    "a white striped lighthouse on a sandy shore at night, under a clear sky",
    "a blue sailboat on the water in the morning, in the mist",
    "a yellow balloon above a green tree by a lavender field, by day",
    "a purple tent on a snowy shore at dawn, under a clear sky",
    "a red wooden windmill by a meadow at noon, with clouds in the sky",
    "a green duck in front of a white house on the grass, in daylight",
    "a red kite over a sandy beach, on a clear day",
    "a white lighthouse left of a red sailboat at sunset",
    "a cloudy evening by fields of lavender, with a white windmill",
    "a blue striped airship above the snow, on a clear morning",
    "a green tree right of a yellow tent on the sand, by day",
    "a yellow duck on the lake, under a cloudless sky at noon",
    "a purple striped balloon in the evening, above a grassy shore",
    "a misty lake at dawn with a wooden house on a snowy shore",
    "a red striped tent on the grass, in daylight under a clear sky",
    "a white sailboat in front of a blue house, at sunset by the beach",
    "a yellow tree on a clear night, with snow on the land",
    "a violet kite above a red mill on a meadow, under a cloudless sky",
    "a crimson blimp over lavender fields at dusk",
    "a blue cottage made of stone on the sand, in the morning, under a clear sky",
)
TRIES = 4  # seeds, of which the banner shows the first that is right
NOT_OF_LUMINA = "Not made by Lumina-DiMOO", "but by the bundled model, while it fills in"


def nodes(name: str, kind: str) -> list[dict]:
    """Values of a workflow's nodes of one type, in order."""
    return [values(node, inputs_of_schema(schemas()[kind])) for node in load(name)["nodes"] if node["type"] == kind]


def enlarged(picture: Image.Image, side: int = SIDE) -> Image.Image:
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def tiled(pictures: list[Image.Image], columns: int) -> Image.Image:
    side, rows = pictures[0].width, -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (side + GAP) - GAP, rows * (side + GAP) - GAP), DARK)
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * (side + GAP), index // columns * (side + GAP)))
    return sheet


def picture_of(pipeline: Pipeline, canvas) -> Image.Image:
    """As Decode Canvas shows it, with what is masked."""
    model = SimpleNamespace(checkpoint=pipeline.checkpoint, downscale_factor=factor_of(pipeline), image_tokenizer=SimpleNamespace(load_device=pipeline.device))
    pixels = room("host.pictures").decode(model, canvas.codes[0], canvas.masked[0].cpu()).permute(1, 2, 0)
    return Image.fromarray((pixels * 255).round().byte().numpy())


def factor_of(pipeline: Pipeline) -> int:
    return pipeline.checkpoint.image_tokenizer.config.downscale_factor


def asked(sampler: dict) -> dict:
    """What a sampler's widgets ask of the engine."""
    renamed = {"cfg": "guidance_scale"}
    return {renamed.get(name, name): sampler[name] for name in ("seed", "steps", "budget", "cfg", "temperature", "method")}


def demo_text_to_image(pipeline: Pipeline) -> Image.Image:
    (prompt,), (sampler,) = (nodes("demo_text_to_image", kind) for kind in ("MIGMPrompt", "MIGMShortcutSampler"))
    return enlarged(pipeline.generate(prompt["text"], **asked(sampler)).images[0])


def lumina_dimoo_text_to_image(pipeline: Pipeline) -> Image.Image:
    """How an image fills in, with words over it: it is not of Lumina-DiMOO, whose weights nobody has here."""
    (prompt,), (sampler,) = (nodes("demo_text_to_image", kind) for kind in ("MIGMPrompt", "MIGMShortcutSampler"))
    seen = []

    def look(report):
        if (report.step + 1) * 4 % report.steps < 4:  # four times in a run
            seen.append(picture_of(pipeline, report.canvas))

    pipeline.generate(prompt["text"], **{**asked(sampler), "seed": sampler["seed"] + 1}, callback=look)
    side = 212
    picture = Image.new("RGB", (SIDE, SIDE), DARK)
    picture.paste(tiled([enlarged(picture, side) for picture in seen], 2), ((SIDE - 2 * side - GAP) // 2, 0))
    pen = ImageDraw.Draw(picture)
    for line, (text, size) in enumerate(zip(NOT_OF_LUMINA, (26, 19))):
        pen.text((SIDE // 2, SIDE - 52 + 33 * line), text, fill=(240, 240, 240), font=ImageFont.load_default(size), anchor="mm")
    return picture


class Sheet:
    """A thumbnail of what goes into a task: pictures, words, and empty places for what would come out."""

    def __init__(self):
        self.picture = Image.new("RGB", (SIDE, SIDE), DARK)
        self.pen = ImageDraw.Draw(self.picture)
        for line, (text, size) in enumerate(zip(NO_RESULT, (22, 18))):
            self.write(text, SIDE // 2, SIDE - 52 + 28 * line, size, GREY)

    def write(self, text: str, x: int, y: int, size: int, colour: tuple = LIGHT) -> None:
        """One line, its middle at x, y."""
        self.pen.text((x, y), text, fill=colour, font=ImageFont.load_default(size), anchor="mm")

    def words(self, text: str, x: int, y: int, width: int, size: int = 20) -> None:
        """Words in lines of a width, in quotation marks, around x and from y down."""
        font, line, lines = ImageFont.load_default(size), "", []
        for word in f"\u201c{text}\u201d".split():
            if line and font.getlength(f"{line} {word}") > width:
                lines, line = [*lines, line], ""
            line = f"{line} {word}".strip()
        for index, each in enumerate([*lines, line]):
            self.write(each, x, y + index * (size + 6), size)

    def scene(self, left: int, top: int, side: int) -> None:
        """The drawn picture that stands for the user's."""
        scene = render(sample_scenes(1, torch.Generator().manual_seed(SCENE_SEED)), 256)[0]
        picture = Image.fromarray((scene.permute(1, 2, 0) * 255).round().byte().numpy())
        self.picture.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (left, top))

    def empty(self, left: int, top: int, side: int, what: str) -> None:
        """The place of what the model would make."""
        self.pen.rectangle((left, top, left + side, top + side), fill=EMPTY, outline=GREY)
        self.write(what, left + side // 2, top + side // 2, 18, GREY)

    def arrow(self, left: int, right: int, y: int) -> None:
        self.pen.line((left, y, right - 8, y), fill=LIGHT, width=4)
        self.pen.polygon([(right, y), (right - 14, y - 9), (right - 14, y + 9)], fill=LIGHT)

    def in_one_step(self, title: str, size: int, result: str, words: str) -> Image.Image:
        """The finished sheet of a picture and what is made of it by some words; ``size`` is the title's."""
        self.write(title, SIDE // 2, 40, size)
        self.scene(28, 90, 200)
        self.arrow(238, 278, 190)
        self.empty(286, 90, 198, result)
        self.words(words, SIDE // 2, 340, 420)
        return self.picture

    def in_two_steps(self, title: str, between: str, words: str, top: int) -> Image.Image:
        """The finished sheet of a picture, what is made of it, and a new picture of that; the words begin at ``top``."""
        self.write(title, SIDE // 2, 40, 32)
        self.scene(16, 100, 140)
        self.arrow(161, 181, 170)
        self.empty(186, 100, 138, between)
        self.arrow(329, 349, 170)
        self.empty(356, 100, 138, "new picture")
        self.words(words, SIDE // 2, top, 420)
        return self.picture


def lumina_dimoo_edit(pipeline: Pipeline) -> Image.Image:
    (edit,) = nodes("lumina_dimoo_edit", "MIGMEditImage")
    return Sheet().in_one_step("Edit", 40, "edited picture", edit["instruction"])


def lumina_dimoo_control(pipeline: Pipeline) -> Image.Image:
    to_map, by_map = nodes("lumina_dimoo_control", "MIGMPrompt")
    return Sheet().in_two_steps("Picture to map to picture", f"{to_map['task.map']} map", by_map["text"], 300)


def lumina_dimoo_ask(pipeline: Pipeline) -> Image.Image:
    (ask,) = nodes("lumina_dimoo_ask", "MIGMAskAboutImage")
    return Sheet().in_one_step("Ask about a picture", 36, "answer in words", ask["question"])


def lumina_dimoo_caption_and_redraw(pipeline: Pipeline) -> Image.Image:
    (ask,) = nodes("lumina_dimoo_caption_and_redraw", "MIGMAskAboutImage")
    return Sheet().in_two_steps("Picture to words to picture", "its caption", ask["question"], 310)


def maskgit_classes(_: Pipeline) -> Image.Image:
    (class_,), (sampler,) = (nodes("maskgit_classes", kind) for kind in ("MIGMMaskGITClass", "MIGMMaskGITSampler"))
    classes = class_["several"].splitlines()
    given = {"guidance_scale" if name == "cfg" else name: value for name, value in sampler.items() if name not in ("warmup", "interval", "ratio")}
    pipeline = Pipeline.load("demo-classes", dtype="fp32")
    return tiled(pipeline.generate(classes, **given).images, 2)


def inpainting(pipeline: Pipeline) -> Image.Image:
    (before, after), (first, second) = (nodes("inpainting", kind) for kind in ("MIGMPrompt", "MIGMShortcutSampler"))
    start = pipeline.generate(before["text"], **asked(first))
    known = pipeline.encode(pipeline.decode(start.canvas))
    hole = known.masked.clone()
    hole[:, :, hole.shape[2] // 2 :] = True
    canvas = known.masked_with(hole)
    finished = pipeline.generate(after["text"], canvas=canvas, **asked(second))
    return tiled([enlarged(picture, SIDE // 2) for picture in (start.images[0], picture_of(pipeline, canvas), finished.images[0])], 3)


def outpainting(pipeline: Pipeline) -> Image.Image:
    (before, after), (first, second) = (nodes("outpainting", kind) for kind in ("MIGMPrompt", "MIGMShortcutSampler"))
    (extend,), side = nodes("outpainting", "MIGMOutpaint"), SIDE // 2
    start = pipeline.generate(before["text"], **asked(first)).images[0]
    strip = start.crop((0, 0, start.width - extend["right"], start.height))
    sides = tuple(extend[name] for name in ("left", "top", "right", "bottom"))
    finished = pipeline.generate(after["text"], task="paint", images=strip, extend=sides, feather=extend["feather"], **asked(second)).images[0]
    room = Image.new("RGB", (side, side), DARK)
    room.paste(enlarged(start, side).crop((0, 0, side * strip.width // start.width, side)))
    return tiled([enlarged(start, side), room, enlarged(finished, side)], 3)


def compare_methods(pipeline: Pipeline) -> Image.Image:
    (prompt,), (way_of,) = (nodes("compare_methods", kind) for kind in ("MIGMPrompt", "MIGMCompareMethods"))
    compare, own = room("compare"), pipeline.checkpoint.settings
    images, labels = [], []
    for name, way in compare.parse(way_of["methods"]):
        chosen = compare.numbers_of(way, own)
        chosen |= chosen.pop("method_settings")
        result = pipeline.generate(prompt["text"], seed=way_of["seed"], guidance_scale=way_of["cfg"], temperature=way_of["temperature"], **chosen)
        images.append(torch.from_numpy(np.array(result.images[0])).float() / 255)
        labels.append([name, f"{len(result.full_steps)} of {chosen['steps']} steps full"])
    sheet = compare.contact_sheet(images, labels)[0]
    picture = Image.fromarray((sheet * 255).byte().numpy())
    picture.thumbnail((1024, 1024), Image.Resampling.LANCZOS)
    return picture


def icon(pipeline: Pipeline) -> Image.Image:
    """400 x 400 pixels: an image half filled in."""
    (prompt,), (sampler,) = (nodes("demo_text_to_image", kind) for kind in ("MIGMPrompt", "MIGMShortcutSampler"))
    seen = []
    pipeline.generate(prompt["text"], **asked(sampler), callback=lambda report: seen.append(report.canvas))
    half = min(seen, key=lambda canvas: abs(canvas.masked.float().mean() - 0.35))
    picture = enlarged(picture_of(pipeline, half), 400)
    return picture.quantize(palette=picture.quantize(256), dither=Image.Dither.FLOYDSTEINBERG)


def banner(pipeline: Pipeline) -> Image.Image:
    """1344 x 576 pixels, 21:9: prompts with the bundled model's own settings, each with the first seed whose picture shows what it says."""
    columns, rows, side = 7, 3, 192
    picture = Image.new("RGB", (columns * side, rows * side))
    for index, prompt in enumerate(BANNER):
        image = right(pipeline, prompt).resize((side, side), Image.Resampling.LANCZOS)
        picture.paste(image, (index % columns * side, index // columns * side))
    return picture


def right(pipeline: Pipeline, prompt: str) -> Image.Image:
    """An image with the first seed from 1 on that shows what a prompt says; with the last of TRIES where none does."""
    for seed in range(1, TRIES + 1):
        image = pipeline.generate(prompt, seed=seed).images[0]
        (verdict,) = judge(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255, parse([prompt]))
        if verdict.right:
            break
    print(f"{prompt}: seed {seed}{'' if verdict.right else f', with faults {verdict.faults}'}", flush=True)
    return image


if __name__ == "__main__":
    demo, chosen = Pipeline.load(dtype="fp32"), sys.argv[1:]  # names of thumbnails; all and the registry's pictures without
    for name in chosen:
        globals()[name](demo).save(FOLDER / f"{name}.jpg", quality=80)
    if chosen:
        sys.exit()
    icon(demo).save(REPOSITORY / ".github/registry" / "icon.png", optimize=True)
    banner(demo).save(REPOSITORY / ".github/registry" / "banner.jpg", quality=60)
    for name in NAMES:
        globals()[name](demo).save(FOLDER / f"{name}.jpg", quality=80)
        print(FOLDER / f"{name}.jpg")
