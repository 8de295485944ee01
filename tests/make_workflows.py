"""Write the example workflows and the subgraphs, by the nodes' schemas: python tests/make_workflows.py

After a change of a node's inputs, and before tests/make_thumbnails.py, which generates what the workflows say.
"""

import json

from graphs import Graph
from nodes_without_host import REPOSITORY
from workflows import FOLDER, SUBGRAPHS

BUNDLED = "bundled demo"
APART = 24  # pixels between columns
PROMPT_HEIGHT = 300  # pixels: older hosts show the inputs of all tasks
TEXT = "text-to-image"  # the task of MIGM Prompt
PROMPT = "a large red heart left of a small yellow star on a navy background"
LOAD, SAY, MAKE, LOOK = "#3f789e", "#3f8f4f", "#a1309b", "#3f789e"  # colours of groups

BASE = "Alpha-VLLM/Lumina-DiMOO"
HEAD_REPOSITORY, HEAD_FOLDER, HEAD = "Kaiwen-Zhu/MIGM-Shortcut", "DiMOO-Shortcut", "dimoo-shortcut.pth"
HEAD_URL = f"https://huggingface.co/{HEAD_REPOSITORY}/resolve/main/{HEAD_FOLDER}/{HEAD}"

DEMO = [64, 9, 0.0, 0.2, "shortcut"]  # steps, budget, cfg, temperature, method: the bundled model's own
LUMINA = [64, 11, 4.0, 1.0, "shortcut"]  # the published ones
MASKGIT = [15, 8, 2.8, "arccos", True, 1.0, 7.0, "linear", "shortcut"]  # steps, budget, cfg, the rule's, method: the published ones

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

DOWNLOAD_MODEL = f"""```
hf download {BASE} \\
  --local-dir models/migm/Lumina-DiMOO
```"""
DOWNLOAD_HEAD = f"""```
hf download {HEAD_REPOSITORY} \\
  {HEAD_FOLDER}/{HEAD} \\
  --local-dir models/migm
```"""

LUMINA_NOTE = f"""In a terminal, in ComfyUI's folder. The model, 16 GB:

{DOWNLOAD_MODEL}

The head, half a gigabyte:

{DOWNLOAD_HEAD}

Then press **R** to refresh the lists, choose both in the loaders (the head lies in **{HEAD_FOLDER}**), and **Run**.

Without a terminal: put all files of huggingface.co/{BASE} into **models/migm/Lumina-DiMOO**. For the head, newer versions of ComfyUI offer **Download** when this workflow opens; it belongs into **models/migm**.
"""

SETTINGS_NOTE = """**64 steps, budget 11, cfg 4, temperature 1** are the paper's for this model. A budget of 16 is slower and closer to vanilla, one of 7 faster.

**Width** and **height** are multiples of 16. The model was made for about a megapixel: 1024x1024, 768x1360, 1536x768 and the like.

In bfloat16 a 24 GB card holds all of it. With less, ComfyUI keeps a part of the weights off the card; float8 halves them.
"""


FOR_LUMINA = f"""For Lumina-DiMOO's own files: the bundled model was not trained for this, and makes noise of it. In a terminal, in ComfyUI's folder, the model, 16 GB:

{DOWNLOAD_MODEL}
"""
AND_HEAD = f"""
The head, half a gigabyte:

{DOWNLOAD_HEAD}
"""
THEN = """
Then press **R** to refresh the lists, choose {files}, and **Run**.
"""
BOTH, MODEL_ALONE = f"both in the loaders (the head lies in **{HEAD_FOLDER}**)", "it in the loader"

OTHER_HEAD = """The head was trained for text to image only. **Report** says how well it serves here: *good*, *fair* or *poor*. Where it is poor, raise **budget**, or set **method** to vanilla.
"""

EDIT_NOTE = f"""Say in **MIGM Edit Image** what to change: *Remove the dog.* *Make it winter.* The picture is cropped to a size that the model knows, about 512x512, and so is the result.

**image_cfg** 4 and **cfg** 2.5 are the published ones: more of the first keeps the picture, more of the second does what you say.

{OTHER_HEAD}"""

CONTROL_NOTE = f"""Two tasks of **MIGM Prompt**, one after the other: *dense* makes a map of a picture, and *control* a new picture that is laid out as the map.

**map**: canny, hed, depth, normal, openpose or sam2mask; *control* knows the maps canny, hed, depth and openpose. With a map of your own, connect it to the second prompt's **image**.

{OTHER_HEAD}"""

ASK_NOTE = """Ask anything. The answer appears on the node while it is written, block by block; **answer** can go wherever ComfyUI takes text.

**options**, one a line: the likeliest is chosen, in a single pass. **length**: room for the answer, in tokens. Behind *Show advanced inputs*: **steps** 64 writes two tokens a pass, in half the time; **cache** keeps what the picture came to during a block, for speed.
"""

REDRAW_NOTE = """The model describes the picture in words, and generates another one from these: **answer** is the **text** of **MIGM Prompt**.

Ask for what matters: *Describe the colours and the light.* Of a batch each picture gets its caption, and each caption its picture.
"""

EXAMPLE = "example.png"  # comes with ComfyUI
EDIT = [64, 11, 2.5, 1.0, "shortcut"]  # steps, budget, cfg, temperature, method: the published ones, with image_cfg
IMAGE_CFG = 4.0
ANSWER = ["", False, 128, 0]  # options, one_by_one, length, seed: of a question


def note_on_files(graph: Graph, size: tuple[int, int], head: bool = True) -> dict:
    text = FOR_LUMINA + (AND_HEAD if head else "") + THEN.format(files=BOTH if head else MODEL_ALONE)
    return graph.note("Files to download first", text, size)


def lumina_loaders(graph: Graph) -> tuple[dict, dict]:
    """The published model and head, which the page can offer to download."""
    return loaders(graph, "Lumina-DiMOO", HEAD, [{"name": HEAD, "url": HEAD_URL, "directory": "migm"}])


def loaders(graph: Graph, model: str = BUNDLED, head: str = BUNDLED, models: list[dict] | None = None) -> tuple[dict, dict]:
    return graph.node("MIGMLoadLumina", (0, 110), [model, "auto"]), graph.node("MIGMLoadShortcutHead", (0, 110 if models else 86), [head], models=models)


def join(graph: Graph, sampler: dict, model: dict, head: dict, prompt: dict) -> None:
    graph.link(model, "model", sampler, "model")
    graph.link(prompt, "prompt", sampler, "prompt")
    graph.link(head, "head", sampler, "head")


def demo_text_to_image() -> dict:
    graph = Graph()
    note = graph.note("Start here", DEMO_NOTE, (0, 470))
    model, head = loaders(graph)
    prompt = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [PROMPT, "", TEXT])
    sampler = graph.node("MIGMShortcutSampler", (0, 640), [7, "randomize", *DEMO])
    save = graph.node("SaveImage", (0, 340), ["migm"])
    report = graph.node("PreviewAny", (0, 250), title="Report")
    join(graph, sampler, model, head, prompt)
    graph.link(sampler, "image", save, "images")
    graph.link(sampler, "report", report, "source")
    x = graph.column(0, 0, 310, (None, "", [note]))
    x = graph.column(x + APART, 0, 300, ("1. Load", LOAD, [model, head]), ("2. Prompt", SAY, [prompt]))
    x = graph.column(x + APART, 0, 330, ("3. Generate", MAKE, [sampler]))
    graph.column(x + APART, 0, 330, ("4. Look", LOOK, [save, report]))
    return graph.workflow("demo_text_to_image", [(prompt, "text"), (sampler, "seed"), (sampler, "budget")], [save])


def lumina_dimoo_text_to_image() -> dict:
    graph = Graph()
    note = graph.note("Files to download first", LUMINA_NOTE, (0, 500))
    settings = graph.note("Settings", SETTINGS_NOTE, (0, 240))
    model, head = lumina_loaders(graph)
    prompt = graph.node(
        "MIGMPrompt",
        (0, PROMPT_HEIGHT),
        ["A striking photograph of a lighthouse on a rocky coast at dusk, waves breaking below, warm light in its windows, dramatic clouds", "", TEXT],
    )
    canvas = graph.node("MIGMEmptyCanvas", (0, 142), [1024, 1024, 1])
    sampler = graph.node("MIGMShortcutSampler", (0, 640), [7, "randomize", *LUMINA])
    save = graph.node("SaveImage", (0, 400), ["lumina_dimoo"])
    report = graph.node("PreviewAny", (0, 200), title="Report")
    graph.link(model, "model", canvas, "model")
    join(graph, sampler, model, head, prompt)
    graph.link(canvas, "canvas", sampler, "canvas")
    graph.link(sampler, "image", save, "images")
    graph.link(sampler, "report", report, "source")
    x = graph.column(0, 0, 370, (None, "", [note, settings]))
    x = graph.column(x + APART, 0, 300, ("1. Load", LOAD, [model, head]), ("2. Prompt and size", SAY, [prompt, canvas]))
    x = graph.column(x + APART, 0, 330, ("3. Generate", MAKE, [sampler]))
    graph.column(x + APART, 0, 380, ("4. Look", LOOK, [save, report]))
    inputs = [(prompt, "text"), (canvas, "width"), (canvas, "height"), (sampler, "seed"), (sampler, "budget"), (sampler, "cfg")]
    return graph.workflow("lumina_dimoo_text_to_image", inputs, [save])


def lumina_dimoo_edit() -> dict:
    graph = Graph()
    files, note = note_on_files(graph, (0, 470)), graph.note("Editing", EDIT_NOTE, (0, 340))
    model, head = lumina_loaders(graph)
    picture = graph.node("LoadImage", (0, 340), [EXAMPLE])
    edit = graph.node("MIGMEditImage", (0, 280), ["Make it winter, with snow on the ground.", IMAGE_CFG, ""])
    seen = graph.node("PreviewImage", (0, 270), title="As the model sees it")
    sampler = graph.node("MIGMShortcutSampler", (0, 640), [7, "randomize", *EDIT])
    save = graph.node("SaveImage", (0, 340), ["lumina_dimoo_edit"])
    report = graph.node("PreviewAny", (0, 220), title="Report")
    graph.link(model, "model", edit, "model")
    graph.link(picture, "IMAGE", edit, "image")
    graph.link(edit, "image", seen, "images")
    join(graph, sampler, model, head, edit)
    graph.link(sampler, "image", save, "images")
    graph.link(sampler, "report", report, "source")
    x = graph.column(0, 0, 320, (None, "", [files, note]))
    x = graph.column(x + APART, 0, 250, ("1. Load", LOAD, [model, head]), ("2. Picture", SAY, [picture]))
    x = graph.column(x + APART, 0, 250, ("3. What to change", SAY, [edit, seen]))
    x = graph.column(x + APART, 0, 290, ("4. Generate", MAKE, [sampler]))
    graph.column(x + APART, 0, 250, ("5. Look", LOOK, [save, report]))
    return graph.workflow("lumina_dimoo_edit", [(picture, "image"), (edit, "instruction"), (sampler, "seed"), (sampler, "budget")], [save])


CONTROL_MAP, CONTROL_PROMPT = "canny", "An oil painting of a summer evening, with thick brush strokes and warm light"


def lumina_dimoo_control() -> dict:
    graph = Graph()
    files, note = note_on_files(graph, (0, 470)), graph.note("Maps", CONTROL_NOTE, (0, 400))
    model, head = lumina_loaders(graph)
    picture = graph.node("LoadImage", (0, 340), [EXAMPLE])
    to_map = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), ["", "", "dense", IMAGE_CFG, CONTROL_MAP], title="MIGM Prompt: a map of it")
    first = graph.node("MIGMShortcutSampler", (0, 540), [7, "fixed", *EDIT], title="MIGM KSampler: the map")
    by_map = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [CONTROL_PROMPT, "", "control", IMAGE_CFG], title="MIGM Prompt: a picture by it")
    second = graph.node("MIGMShortcutSampler", (0, 540), [7, "randomize", *EDIT], title="MIGM KSampler: the picture")
    map_ = graph.node("PreviewImage", (0, 240), title="The map")
    save = graph.node("SaveImage", (0, 280), ["lumina_dimoo_control"], title="The picture")
    report = graph.node("PreviewAny", (0, 180), title="Report")
    for prompt, image in ((to_map, (picture, "IMAGE")), (by_map, (first, "image"))):
        graph.link(model, "model", prompt, "task.model")
        graph.link(*image, prompt, "task.image")
    join(graph, first, model, head, to_map)
    join(graph, second, model, head, by_map)
    graph.link(first, "image", map_, "images")
    graph.link(second, "image", save, "images")
    graph.link(second, "report", report, "source")
    x = graph.column(0, 0, 320, (None, "", [files, note]))
    x = graph.column(x + APART, 0, 250, ("1. Load", LOAD, [model, head]), ("2. Picture", SAY, [picture]))
    x = graph.column(x + APART, 0, 270, ("3. Picture to map", MAKE, [to_map, first]))
    x = graph.column(x + APART, 0, 270, ("4. Map to picture", MAKE, [by_map, second]))
    graph.column(x + APART, 0, 250, ("5. Look", LOOK, [map_, save, report]))
    inputs = [(picture, "image"), (to_map, "task.map"), (by_map, "text"), (second, "seed"), (second, "budget")]
    return graph.workflow("lumina_dimoo_control", inputs, [map_, save])


def lumina_dimoo_ask() -> dict:
    graph = Graph()
    files, note = note_on_files(graph, (0, 290), head=False), graph.note("Asking", ASK_NOTE, (0, 300))
    model = graph.node("MIGMLoadLumina", (0, 110), ["Lumina-DiMOO", "auto"])
    picture = graph.node("LoadImage", (0, 340), [EXAMPLE])
    ask = graph.node("MIGMAskAboutImage", (0, 560), ["What is in this picture, and how was it made?", *ANSWER])
    answer = graph.node("PreviewAny", (0, 260), title="Answer")
    report = graph.node("PreviewAny", (0, 200), title="Report")
    graph.link(model, "model", ask, "model")
    graph.link(picture, "IMAGE", ask, "image")
    graph.link(ask, "answer", answer, "source")
    graph.link(ask, "report", report, "source")
    x = graph.column(0, 0, 350, (None, "", [files, note]))
    x = graph.column(x + APART, 0, 250, ("1. Load", LOAD, [model]), ("2. Picture", SAY, [picture]))
    x = graph.column(x + APART, 0, 350, ("3. Ask", MAKE, [ask]))
    graph.column(x + APART, 0, 350, ("4. Look", LOOK, [answer, report]))
    return graph.workflow("lumina_dimoo_ask", [(picture, "image"), (ask, "question"), (ask, "options"), (ask, "length")], [answer])


def lumina_dimoo_caption_and_redraw() -> dict:
    graph = Graph()
    files, note = note_on_files(graph, (0, 470)), graph.note("From words to a picture", REDRAW_NOTE, (0, 220))
    model, head = lumina_loaders(graph)
    picture = graph.node("LoadImage", (0, 340), [EXAMPLE])
    ask = graph.node("MIGMAskAboutImage", (0, 530), ["Describe this picture in detail.", *ANSWER])
    prompt = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), ["", "", TEXT])
    sampler = graph.node("MIGMShortcutSampler", (0, 640), [7, "randomize", *LUMINA])
    caption = graph.node("PreviewAny", (0, 170), title="Caption")
    save = graph.node("SaveImage", (0, 340), ["lumina_dimoo_redraw"])
    report = graph.node("PreviewAny", (0, 170), title="Report")
    graph.link(model, "model", ask, "model")
    graph.link(picture, "IMAGE", ask, "image")
    graph.link(ask, "answer", prompt, "text")
    graph.link(ask, "answer", caption, "source")
    join(graph, sampler, model, head, prompt)
    graph.link(sampler, "image", save, "images")
    graph.link(sampler, "report", report, "source")
    x = graph.column(0, 0, 320, (None, "", [files, note]))
    x = graph.column(x + APART, 0, 250, ("1. Load", LOAD, [model, head]), ("2. Picture", SAY, [picture]))
    x = graph.column(x + APART, 0, 270, ("3. Ask for its caption, and take that as prompt", SAY, [ask, prompt]))
    x = graph.column(x + APART, 0, 290, ("4. Generate", MAKE, [sampler]))
    graph.column(x + APART, 0, 250, ("5. Look", LOOK, [caption, save, report]))
    return graph.workflow("lumina_dimoo_caption_and_redraw", [(picture, "image"), (ask, "question"), (sampler, "seed"), (sampler, "budget")], [save])


INPAINT_PROMPTS = PROMPT, "a large red heart left of a large blue circle on a navy background"
INPAINT_SEEDS = 7, 3


def inpainting() -> dict:
    graph = Graph()
    note = graph.note("Start here", INPAINTING_NOTE, (0, 510))
    model, head = loaders(graph)
    keep = graph.node("SolidMask", (0, 118), [0, 64, 64], title="Keep all of 64x64 pixels ...")
    hole = graph.node("SolidMask", (0, 118), [1, 32, 64], title="... but these 32x64 ...")
    mask = graph.node("MaskComposite", (0, 138), [32, 0, "add"], title="... from x = 32, y = 0")
    before = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [INPAINT_PROMPTS[0], "", TEXT], title="MIGM Prompt: first image")
    first = graph.node("MIGMShortcutSampler", (0, 540), [INPAINT_SEEDS[0], "fixed", *DEMO], title="MIGM KSampler: first image")
    encode = graph.node("MIGMEncodeImage", (0, 150), [0.0, 0])
    decode = graph.node("MIGMDecodeCanvas", (0, 86))
    masked = graph.node("PreviewImage", (0, 270), title="Masked")
    after = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [INPAINT_PROMPTS[1], "", TEXT], title="MIGM Prompt: new half")
    second = graph.node("MIGMShortcutSampler", (0, 540), [INPAINT_SEEDS[1], "fixed", *DEMO], title="MIGM KSampler: new half")
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


OUTPAINT_SEED, STRIP = 2, 36


def outpainting() -> dict:
    graph = Graph()
    note = graph.note("Start here", OUTPAINTING_NOTE, (0, 510))
    model, head = loaders(graph)
    before = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [INPAINT_PROMPTS[0], "", TEXT], title="MIGM Prompt: first image")
    first = graph.node("MIGMShortcutSampler", (0, 540), [INPAINT_SEEDS[0], "fixed", *DEMO], title="MIGM KSampler: first image")
    room = graph.node("EmptyImage", (0, 142), [STRIP, 64, 1, 0], title=f"{STRIP}x64 pixels ...")
    strip = graph.node("ImageCompositeMasked", (0, 162), [0, 0, False], title="... of the first image's left side")
    extend = graph.node("MIGMOutpaint", (0, 340), [0, 0, 64 - STRIP, 0, 0])
    seen = graph.node("PreviewImage", (0, 270), title="Before: as the model sees it")
    after = graph.node("MIGMPrompt", (0, PROMPT_HEIGHT), [INPAINT_PROMPTS[1], "", TEXT], title="MIGM Prompt: whole picture")
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
    graph.link(second, "image", save, "images")
    graph.link(second, "report", report, "source")
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


def class_to_image(model: str, head: str, classes: str = "") -> dict:
    """Images of classes, with a MaskGIT model and its head. No example until a model comes with the extension: tests run it with theirs."""
    graph = Graph()
    loader = graph.node("MIGMLoadMaskGIT", (0, 110), [model, "auto"])
    of_head = graph.node("MIGMLoadShortcutHead", (0, 86), [head])
    class_ = graph.node("MIGMMaskGITClass", (0, 180), ["golden retriever", classes])
    sampler = graph.node("MIGMMaskGITSampler", (0, 700), [7, "fixed", *MASKGIT])
    save = graph.node("SaveImage", (0, 340), ["migm"])
    report = graph.node("PreviewAny", (0, 250), title="Report")
    graph.link(loader, "model", sampler, "model")
    graph.link(of_head, "head", sampler, "head")
    graph.link(class_, "classes", sampler, "classes")
    graph.link(sampler, "image", save, "images")
    graph.link(sampler, "report", report, "source")
    x = graph.column(0, 0, 300, ("1. Load", LOAD, [loader, of_head]), ("2. Class", SAY, [class_]))
    x = graph.column(x + APART, 0, 330, ("3. Generate", MAKE, [sampler]))
    graph.column(x + APART, 0, 330, ("4. Look", LOOK, [save, report]))
    return graph.workflow("class_to_image", [(class_, "class_name"), (sampler, "seed"), (sampler, "budget")], [save])


WORKFLOWS = (demo_text_to_image, inpainting, outpainting, compare_methods, lumina_dimoo_text_to_image)
WORKFLOWS += (lumina_dimoo_edit, lumina_dimoo_control, lumina_dimoo_ask, lumina_dimoo_caption_and_redraw)

NUMBERS = "It starts with the bundled model and its numbers. For Lumina-DiMOO choose both files, steps 64, budget 11, cfg 4 and temperature 1."


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


SUBGRAPH_MAKERS = (text_to_image_subgraph, inpainting_subgraph)


def write(path, graph: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(graph, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path.relative_to(REPOSITORY))


if __name__ == "__main__":
    for make in WORKFLOWS:
        write(FOLDER / f"{make.__name__}.json", make())
    for make in SUBGRAPH_MAKERS:
        graph = make()
        write(SUBGRAPHS / f"{graph['nodes'][0]['title']}.json", graph)
