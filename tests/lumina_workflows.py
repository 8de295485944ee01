"""The workflows of Lumina-DiMOO's own files."""

from graphs import Graph
from workflow_parts import APART, LOAD, LOOK, MAKE, OTHER_HEAD, PROMPT_HEIGHT, SAY, TEXT, join, loaders, look

BASE = "Alpha-VLLM/Lumina-DiMOO"
HEAD_REPOSITORY, HEAD_FOLDER, HEAD = "Kaiwen-Zhu/MIGM-Shortcut", "DiMOO-Shortcut", "dimoo-shortcut.pth"
HEAD_URL = f"https://huggingface.co/{HEAD_REPOSITORY}/resolve/main/{HEAD_FOLDER}/{HEAD}"

LUMINA = [64, 11, 4.0, 1.0, "shortcut"]  # steps, budget, cfg, temperature, method: the published ones
EDIT = [64, 11, 2.5, 1.0, "shortcut"]  # likewise, with image_cfg
IMAGE_CFG = 4.0
ANSWER = ["", False, 128, 0]  # options, one_by_one, length, seed: of a question
EXAMPLE = "example.png"  # comes with ComfyUI
CONTROL_MAP, CONTROL_PROMPT = "canny", "An oil painting of a summer evening, with thick brush strokes and warm light"

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


def note_on_files(graph: Graph, size: tuple[int, int], head: bool = True) -> dict:
    text = FOR_LUMINA + (AND_HEAD if head else "") + THEN.format(files=BOTH if head else MODEL_ALONE)
    return graph.note("Files to download first", text, size)


def lumina_loaders(graph: Graph) -> tuple[dict, dict]:
    """The published model and head, which the page can offer to download."""
    return loaders(graph, "Lumina-DiMOO", HEAD, [{"name": HEAD, "url": HEAD_URL, "directory": "migm"}])


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
    look(graph, sampler, save, report)
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
    look(graph, sampler, save, report)
    x = graph.column(0, 0, 320, (None, "", [files, note]))
    x = graph.column(x + APART, 0, 250, ("1. Load", LOAD, [model, head]), ("2. Picture", SAY, [picture]))
    x = graph.column(x + APART, 0, 250, ("3. What to change", SAY, [edit, seen]))
    x = graph.column(x + APART, 0, 290, ("4. Generate", MAKE, [sampler]))
    graph.column(x + APART, 0, 250, ("5. Look", LOOK, [save, report]))
    return graph.workflow("lumina_dimoo_edit", [(picture, "image"), (edit, "instruction"), (sampler, "seed"), (sampler, "budget")], [save])


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
    look(graph, second, save, report)
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
    look(graph, sampler, save, report)
    x = graph.column(0, 0, 320, (None, "", [files, note]))
    x = graph.column(x + APART, 0, 250, ("1. Load", LOAD, [model, head]), ("2. Picture", SAY, [picture]))
    x = graph.column(x + APART, 0, 270, ("3. Ask for its caption, and take that as prompt", SAY, [ask, prompt]))
    x = graph.column(x + APART, 0, 290, ("4. Generate", MAKE, [sampler]))
    graph.column(x + APART, 0, 250, ("5. Look", LOOK, [caption, save, report]))
    return graph.workflow("lumina_dimoo_caption_and_redraw", [(picture, "image"), (ask, "question"), (sampler, "seed"), (sampler, "budget")], [save])


WORKFLOWS = (lumina_dimoo_text_to_image, lumina_dimoo_edit, lumina_dimoo_control, lumina_dimoo_ask, lumina_dimoo_caption_and_redraw)
