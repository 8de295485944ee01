"""The workflows and subgraphs of the bundled model."""

from graphs import Graph
from workflow_parts import APART, LOAD, LOOK, MAKE, OTHER_HEAD, PROMPT_HEIGHT, SAY, TEXT, join, loaders, look

PROMPT = "a red house left of a yellow tree by a lavender field, on a clear evening"
OTHER_PROMPT = "a red house left of a white striped lighthouse by a lavender field, on a clear evening"
OUTPAINT_PROMPT = "a red house left of a blue tent by a lavender field, on a clear evening"
SEED, INPAINT_SEED, OUTPAINT_SEED = 1, 1, 1  # the first that give what the prompts say: tests/tools/choose_seeds.py
SIDE, STRIP = 256, 144  # pixels: of an image, and of the part of the first one that is extended
FEATHER = 16  # pixels
DEMO = [64, 11, 4.0, 1.0, "shortcut"]  # steps, budget, cfg, temperature, method: the bundled model's own
NUMBERS = "It starts with the bundled model. Its numbers are Lumina-DiMOO's, too: steps 64, budget 11, cfg 4 and temperature 1."

DEMO_NOTE = """Press **Run**. The model and the head come with the extension: nothing to download, no GPU needed.

An image takes 3 to 5 seconds on two CPU cores. The sampler shows it while it fills in, and marks each step on its timeline. Few steps run the whole model; the shortcut head takes the others. **Report** says how much time that saved.

## Try

- Another prompt, in plain English. The bundled model knows one world, by a lake: one or two of balloon, airship, kite, house, windmill, lighthouse, tent, tree, sailboat and duck; red, yellow, green, blue, purple or white; plain or striped, a house and a windmill wooden or stone; left of, right of, above, below, in front of or behind; dawn, day, sunset or night; clear, cloudy or misty; grass, sand, snow or lavender.
- **budget** 7 or 16: how many of the steps run the whole model.
- **method** vanilla, to see the same seed without the shortcut, in three times the time. In newer versions of ComfyUI it is behind *Show advanced inputs*.
"""

INPAINTING_NOTE = """Press **Run**: nothing to download. It generates an image, masks the right half, and generates only that half again by a second prompt, with another object there. The left half keeps its tokens. It takes about 10 seconds on two CPU cores.

## With your own image

1. Add **Load Image**, right-click it, take **Open in MaskEditor**, paint over what is to change, save.
2. Connect its IMAGE and MASK to **MIGM Encode Image to Canvas**, in place of the two links there.
3. Delete the group *2. First image* and the three mask nodes.
4. Choose Lumina-DiMOO in both loaders; the sampler's numbers are its own, too. The bundled model knows only its own world, in 256x256 pixels.

**variation** also masks a share of the other tokens. For outpainting, put **Pad Image for Outpainting** before the encoder.
"""

OUTPAINTING_NOTE = f"""Press **Run**: nothing to download. It generates an image, takes a strip of 144x256 pixels of it, and extends that by 112 pixels to the right, with another object there. Its last 16 pixels fade into what is new; all others stay. It takes about 10 seconds on two CPU cores.

## With your own image

1. Add **Load Image**, and connect its IMAGE to **MIGM Outpaint**, in place of the link there.
2. Delete the group *2. First image* and the two nodes that cut the strip.
3. Say how many pixels to add on each side, and describe the whole in the second prompt.
4. Choose Lumina-DiMOO in both loaders; the sampler's numbers are its own, too. The bundled model knows only its own world, in 256x256 pixels.

{OTHER_HEAD}"""

COMPARE_NOTE = """Press **Run**: nothing to download. One prompt and one seed, four ways, with what each costs beneath. It takes about half a minute on two CPU cores.

## methods: one way a line

- **quality**, **balanced**, **fast**: the model's own steps with 1.5, 1 and 0.67 times its own budget
- **vanilla**: the whole model at every step
- **vanilla 11**: the same with 11 steps in all, to see what merely fewer steps would give
- **shortcut 8**, **shortcut 8 of 48**: a budget, and a number of steps
- **ml-cache**: the cache that ships with Lumina-DiMOO

The gain grows with the model. The bundled one is small, so its head saves less than Lumina-DiMOO's.
"""


def demo_text_to_image() -> dict:
    graph = Graph()
    note = graph.note("Start here", DEMO_NOTE, (0, 600))
    model, head = loaders(graph)
    prompt = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [PROMPT, "", TEXT])
    sampler = graph.node("MIGMShortcutSampler", (0, 640), [SEED, "randomize", *DEMO])
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
    note = graph.note("Start here", INPAINTING_NOTE, (0, 540))
    model, head = loaders(graph)
    keep = graph.node("SolidMask", (0, 118), [0, SIDE, SIDE], title=f"Keep all of {SIDE}x{SIDE} pixels ...")
    hole = graph.node("SolidMask", (0, 118), [1, SIDE // 2, SIDE], title=f"... but these {SIDE // 2}x{SIDE} ...")
    mask = graph.node("MaskComposite", (0, 138), [SIDE // 2, 0, "add"], title=f"... from x = {SIDE // 2}, y = 0")
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
    note = graph.note("Start here", OUTPAINTING_NOTE, (0, 585))
    model, head = loaders(graph)
    before = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [PROMPT, "", TEXT], title="MIGM Prompt: first image")
    first = graph.node("MIGMShortcutSampler", (0, 540), [SEED, "fixed", *DEMO], title="MIGM KSampler: first image")
    room = graph.node("EmptyImage", (0, 142), [STRIP, SIDE, 1, 0], title=f"{STRIP}x{SIDE} pixels ...")
    strip = graph.node("ImageCompositeMasked", (0, 162), [0, 0, False], title="... of the first image's left side")
    extend = graph.node("MIGMOutpaint", (0, 340), [0, 0, SIDE - STRIP, 0, FEATHER])
    seen = graph.node("PreviewImage", (0, 270), title="Before: as the model sees it")
    after = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [OUTPAINT_PROMPT, "", TEXT], title="MIGM Prompt: whole picture")
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
    note = graph.note("Start here", COMPARE_NOTE, (0, 500))
    model, head = loaders(graph)
    prompt = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [PROMPT, "", TEXT])
    compare = graph.node("MIGMCompareMethods", (0, 550), [SEED, "fixed", "vanilla\nquality\nbalanced\nfast", *DEMO[2:4]])
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
    sampler = graph.node("MIGMShortcutSampler", (0, 640), [SEED, "randomize", *DEMO])
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
    sampler = graph.node("MIGMShortcutSampler", (0, 640), [SEED, "randomize", *DEMO])
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
