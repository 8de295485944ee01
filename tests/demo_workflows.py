"""The workflows and subgraphs of the bundled model."""

from graphs import Graph
from workflow_parts import APART, LOAD, LOOK, MAKE, PROMPT_HEIGHT, SAY, TEXT, join, loaders, look

PROMPT = "a large red heart left of a small yellow star on a navy background"
OTHER_PROMPT = "a large red heart left of a large blue circle on a navy background"
SEED, INPAINT_SEED, OUTPAINT_SEED = 7, 3, 2
STRIP = 36  # pixels of the first image that are extended
DEMO = [64, 9, 0.0, 0.2, "shortcut"]  # steps, budget, cfg, temperature, method: the bundled model's own
NUMBERS = "It starts with the bundled model and its numbers. For Lumina-DiMOO choose both files, steps 64, budget 11, cfg 4 and temperature 1."

DEMO_NOTE = """Press **Run**. The model and the head come with the extension: nothing to download, no GPU needed.

The sampler shows the image while it fills in, and marks each step on its timeline. Few steps run the whole model; the shortcut head takes the others. **Report** says how much time that saved.

## Try

- Another prompt. This small model knows circles, squares, triangles, stars and hearts; red, yellow, green, blue and purple; small and large; left of, right of, above and below; backgrounds in cream, mint and navy. One to three objects an image.
- **budget** 6 or 14: how many of the steps run the whole model.
- **method** vanilla, to see the same seed without the shortcut. In newer versions of ComfyUI it is behind *Show advanced inputs*.
"""

INPAINTING_NOTE = """Press **Run**: nothing to download. It generates an image, masks the right half, and generates only that half again by a second prompt. The left half keeps its tokens.

## With your own image

1. Add **Load Image**, right-click it, take **Open in MaskEditor**, paint over what is to change, save.
2. Connect its IMAGE and MASK to **MIGM Encode Image to Canvas**, in place of the two links there.
3. Delete the group *2. First image* and the three mask nodes.
4. Choose Lumina-DiMOO in both loaders, and in the sampler steps 64, budget 11, cfg 4, temperature 1. The bundled model knows only its own scenes.

**variation** also masks a share of the other tokens. For outpainting, put **Pad Image for Outpainting** before the encoder.
"""

OUTPAINTING_NOTE = """Press **Run**: nothing to download. It generates an image, takes a strip of 36x64 pixels of it, and extends that by 28 pixels to the right, with something else there. The strip keeps its pixels.

## With your own image

1. Add **Load Image**, and connect its IMAGE to **MIGM Outpaint**, in place of the link there. A MASK of the MaskEditor regenerates parts inside, too.
2. Delete the group *2. First image* and the two nodes that cut the strip.
3. Say how many pixels to add on each side, and describe the whole picture in the second prompt.
4. Choose Lumina-DiMOO in both loaders, and in the sampler steps 64, budget 11, cfg 4, temperature 1. The bundled model knows only its own scenes, in 64x64 pixels.

**feather** fades the result into the picture.
"""

COMPARE_NOTE = """Press **Run**: nothing to download. One prompt and one seed, four ways, with what each costs beneath.

## methods: one way a line

- **quality**, **balanced**, **fast**: the model's own steps with 1.5, 1 and 0.67 times its own budget
- **vanilla**: the whole model at every step
- **vanilla 9**: the same with 9 steps in all, to see what merely fewer steps would give
- **shortcut 8**, **shortcut 8 of 48**: a budget, and a number of steps
- **ml-cache**: the cache that ships with Lumina-DiMOO

The gain grows with the model. The bundled one is small, so its head saves less than Lumina-DiMOO's.
"""


def demo_text_to_image() -> dict:
    graph = Graph()
    note = graph.note("Start here", DEMO_NOTE, (0, 470))
    model, head = loaders(graph)
    prompt = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [PROMPT, "", TEXT])
    sampler = graph.node("MIGMShortcutSampler", (0, 640), [7, "randomize", *DEMO])
    save = graph.node("SaveImage", (0, 340), ["migm"])
    report = graph.node("PreviewAny", (0, 250), title="Report")
    join(graph, sampler, model, head, prompt)
    look(graph, sampler, save, report)
    x = graph.column(0, 0, 310, (None, "", [note]))
    x = graph.column(x + APART, 0, 300, ("1. Load", LOAD, [model, head]), ("2. Prompt", SAY, [prompt]))
    x = graph.column(x + APART, 0, 330, ("3. Generate", MAKE, [sampler]))
    graph.column(x + APART, 0, 330, ("4. Look", LOOK, [save, report]))
    return graph.workflow("demo_text_to_image", [(prompt, "text"), (sampler, "seed"), (sampler, "budget")], [save])


def inpainting() -> dict:
    graph = Graph()
    note = graph.note("Start here", INPAINTING_NOTE, (0, 510))
    model, head = loaders(graph)
    keep = graph.node("SolidMask", (0, 118), [0, 64, 64], title="Keep all of 64x64 pixels ...")
    hole = graph.node("SolidMask", (0, 118), [1, 32, 64], title="... but these 32x64 ...")
    mask = graph.node("MaskComposite", (0, 138), [32, 0, "add"], title="... from x = 32, y = 0")
    before = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [PROMPT, "", TEXT], title="MIGM Prompt: first image")
    first = graph.node("MIGMShortcutSampler", (0, 540), [SEED, "fixed", *DEMO], title="MIGM KSampler: first image")
    encode = graph.node("MIGMEncodeImage", (0, 150), [0.0, 0])
    decode = graph.node("MIGMDecodeCanvas", (0, 86))
    masked = graph.node("PreviewImage", (0, 270), title="Masked")
    after = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [OTHER_PROMPT, "", TEXT], title="MIGM Prompt: new half")
    second = graph.node("MIGMShortcutSampler", (0, 540), [INPAINT_SEED, "fixed", *DEMO], title="MIGM KSampler: new half")
    save = graph.node("SaveImage", (0, 300), ["migm_inpainting"], title="After")
    join(graph, first, model, head, before)
    join(graph, second, model, head, after)
    graph.link(keep, "MASK", mask, "destination")
    graph.link(hole, "MASK", mask, "source")
    graph.link(model, "model", encode, "model")
    graph.link(first, "image", encode, "image")
    graph.link(mask, "MASK", encode, "mask")
    graph.link(encode, "canvas", second, "canvas")
    graph.link(encode, "canvas", decode, "canvas")
    graph.link(decode, "image", masked, "images")
    graph.link(second, "image", save, "images")
    x = graph.column(0, 0, 258, (None, "", [note]), ("1. Load", LOAD, [model, head]))
    x = graph.column(x + APART, 0, 270, ("2. First image", MAKE, [before, first]))
    x = graph.column(x + APART, 0, 250, ("3. Mask: the right half", SAY, [keep, hole, mask, encode]))
    x = graph.column(x + APART, 0, 270, ("4. New half", MAKE, [after, second]))
    graph.column(x + APART, 0, 250, ("5. Look", LOOK, [save, decode, masked]))
    return graph.workflow("inpainting", [(before, "text"), (after, "text"), (first, "seed"), (second, "seed")], [save])


def outpainting() -> dict:
    graph = Graph()
    note = graph.note("Start here", OUTPAINTING_NOTE, (0, 510))
    model, head = loaders(graph)
    before = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [PROMPT, "", TEXT], title="MIGM Prompt: first image")
    first = graph.node("MIGMShortcutSampler", (0, 540), [SEED, "fixed", *DEMO], title="MIGM KSampler: first image")
    room = graph.node("EmptyImage", (0, 142), [STRIP, 64, 1, 0], title=f"{STRIP}x64 pixels ...")
    strip = graph.node("ImageCompositeMasked", (0, 162), [0, 0, False], title="... of the first image's left side")
    extend = graph.node("MIGMOutpaint", (0, 340), [0, 0, 64 - STRIP, 0, 0])
    seen = graph.node("PreviewImage", (0, 270), title="Before: as the model sees it")
    after = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [OTHER_PROMPT, "", TEXT], title="MIGM Prompt: whole picture")
    second = graph.node("MIGMShortcutSampler", (0, 540), [OUTPAINT_SEED, "fixed", *DEMO], title="MIGM KSampler: extension")
    save = graph.node("SaveImage", (0, 300), ["migm_outpainting"], title="After")
    report = graph.node("PreviewAny", (0, 160), title="Report")
    join(graph, first, model, head, before)
    join(graph, second, model, head, after)
    graph.link(room, "IMAGE", strip, "destination")
    graph.link(first, "image", strip, "source")
    graph.link(model, "model", extend, "model")
    graph.link(strip, "IMAGE", extend, "image")
    graph.link(extend, "canvas", second, "canvas")
    graph.link(extend, "image", seen, "images")
    look(graph, second, save, report)
    x = graph.column(0, 0, 258, (None, "", [note]), ("1. Load", LOAD, [model, head]))
    x = graph.column(x + APART, 0, 270, ("2. First image", MAKE, [before, first]))
    x = graph.column(x + APART, 0, 290, ("3. A strip, to be extended", SAY, [room, strip, extend]))
    x = graph.column(x + APART, 0, 270, ("4. Extension", MAKE, [after, second]))
    graph.column(x + APART, 0, 250, ("5. Look", LOOK, [save, seen, report]))
    inputs = [(before, "text"), (after, "text"), *((extend, side) for side in ("left", "top", "right", "bottom")), (second, "seed")]
    return graph.workflow("outpainting", inputs, [save])


def compare_methods() -> dict:
    graph = Graph()
    note = graph.note("Start here", COMPARE_NOTE, (0, 470))
    model, head = loaders(graph)
    prompt = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [PROMPT, "", TEXT])
    compare = graph.node("MIGMCompareMethods", (0, 550), [7, "fixed", "vanilla\nquality\nbalanced\nfast", *DEMO[2:4]])
    sheet = graph.node("SaveImage", (0, 380), ["migm_compare"], title="Contact sheet")
    images = graph.node("PreviewImage", (0, 270), title="The images alone")
    report = graph.node("PreviewAny", (0, 400), title="Report")
    join(graph, compare, model, head, prompt)
    graph.link(compare, "contact sheet", sheet, "images")
    graph.link(compare, "images", images, "images")
    graph.link(compare, "report", report, "source")
    x = graph.column(0, 0, 300, (None, "", [note]))
    x = graph.column(x + APART, 0, 280, ("1. Load", LOAD, [model, head]), ("2. Prompt", SAY, [prompt]))
    x = graph.column(x + APART, 0, 300, ("3. Generate several ways", MAKE, [compare, images]))
    graph.column(x + APART, 0, 480, ("4. Look", LOOK, [sheet, report]))
    return graph.workflow("compare_methods", [(prompt, "text"), (compare, "methods"), (compare, "seed")], [sheet])


def text_to_image_subgraph() -> dict:
    graph = Graph()
    model, head = loaders(graph)
    prompt = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [PROMPT, "", TEXT])
    canvas = graph.node("MIGMEmptyCanvas", (0, 142), [0, 0, 1])
    sampler = graph.node("MIGMShortcutSampler", (0, 640), [7, "randomize", *DEMO])
    graph.link(model, "model", canvas, "model")
    join(graph, sampler, model, head, prompt)
    graph.link(canvas, "canvas", sampler, "canvas")
    x = graph.column(0, 0, 320, (None, "", [model, head, prompt, canvas]))
    graph.column(x + APART, 0, 340, (None, "", [sampler]))
    inputs = [("text", prompt, "text"), ("width", canvas, "width"), ("height", canvas, "height"), ("model", model, "model"), ("head", head, "head")]
    inputs += [(name, sampler, name) for name in ("seed", "steps", "budget", "cfg", "temperature")]
    description = f"Generates an image from a text with a masked image model and its shortcut head. {NUMBERS}"
    outputs = [("image", sampler, "image"), ("report", sampler, "report")]
    return graph.subgraph("MIGM Text to Image", description, ["text to image", "lumina", "dimoo", "shortcut"], inputs, outputs)


def inpainting_subgraph() -> dict:
    graph = Graph()
    model, head = loaders(graph)
    prompt = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [PROMPT, "", TEXT])
    encode = graph.node("MIGMEncodeImage", (0, 150), [0.0, 0])
    sampler = graph.node("MIGMShortcutSampler", (0, 640), [7, "randomize", *DEMO])
    graph.link(model, "model", encode, "model")
    join(graph, sampler, model, head, prompt)
    graph.link(encode, "canvas", sampler, "canvas")
    x = graph.column(0, 0, 320, (None, "", [model, head, prompt, encode]))
    graph.column(x + APART, 0, 340, (None, "", [sampler]))
    inputs = [("image", encode, "image"), ("mask", encode, "mask"), ("text", prompt, "text"), ("variation", encode, "variation")]
    inputs += [("model", model, "model"), ("head", head, "head"), *((name, sampler, name) for name in ("seed", "steps", "budget", "cfg", "temperature"))]
    description = f"Generates the masked part of an image again by a text, and keeps the rest. {NUMBERS}"
    outputs = [("image", sampler, "image"), ("report", sampler, "report")]
    return graph.subgraph("MIGM Inpaint", description, ["inpaint", "resample", "lumina", "dimoo", "shortcut"], inputs, outputs)


WORKFLOWS = (demo_text_to_image, inpainting, outpainting, compare_methods)
SUBGRAPHS = (text_to_image_subgraph, inpainting_subgraph)
