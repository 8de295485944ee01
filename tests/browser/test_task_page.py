"""Tasks in the page: a task's own inputs, its plan, and an answer that stays on its node."""

import time

import pytest
from graphs import Graph
from lumina_workflows import EDIT, IMAGE_CFG
from page import EMPTY, WAIT_SECONDS, frontend
from PIL import Image
from workflows import load

pytestmark = [pytest.mark.flaky(reruns=1, only_rerun=["TimeoutError"]), pytest.mark.hosts("newest", "oldest")]  # as in test_page

FIRST_GREY_TEXT = (1, 49)  # of the frontend, whose Vue nodes show that a text is disabled; 1.35 does not

ANSWER = "(String(node('MIGMAskAboutImage')?.widgets?.find((w) => w.name === '$$node-text-preview')?.value ?? ''))"
INPUTS = "node(arguments[0]).inputs.map((slot) => slot.name).filter((name) => name.startsWith('task'))"
PUT = "const n = LiteGraph.createNode(arguments[0]); app.canvas.graph.add(n); n.pos = [200, 100]; n.setSize(n.computeSize())"
CHOOSE = "const w = node(arguments[0]).widgets.find((w) => w.name === 'task'); w.value = arguments[1]; w.callback?.(arguments[1])"
SAVED = "return JSON.parse(JSON.stringify(root().serialize()))"
OWN = {
    "MIGMPrompt": {"text-to-image": [], "dense": ["model", "image", "image_cfg", "map"], "style": ["model", "image", "style_image", "image_cfg"], "edit": ["model", "image", "image_cfg"]},
    "MIGMImageTask": {"dense": ["image", "map"], "style": ["image", "style_image"], "control": ["image", "prompt"]},
}


def is_dynamic(page) -> bool:
    """Whether the host shows only what a choice brings."""
    return "COMFY_DYNAMICCOMBO_V3" in str(page.client.get("/object_info/MIGMPrompt"))


@pytest.mark.parametrize("kind", list(OWN))
def test_a_task_shows_its_own_inputs_only(page, kind):
    """Newer hosts do; older ones show all."""
    page.run(PUT, kind)
    for task, shown in OWN[kind].items():
        page.run(CHOOSE, kind, task)
        expected = ["task", *(f"task.{name}" for name in shown)]
        if is_dynamic(page):
            page.wait(f"JSON.stringify({INPUTS}.sort()) === JSON.stringify(arguments[1])", kind, sorted(expected), what=f"the inputs of {task}")
        else:
            assert set(page.run(f"return {INPUTS}", kind)) >= set(expected)
        page.screenshot(f"{kind}-{task}")


def test_a_prompts_text_is_taken_away_where_a_task_has_words_of_its_own(page):
    page.run(PUT, "MIGMPrompt")
    text = "node('MIGMPrompt').widgets.find((w) => w.name === 'text')"
    for task, unused in (("style", True), ("edit", False), ("dense", True), ("text-to-image", False)):
        page.run(CHOOSE, "MIGMPrompt", task)
        page.wait(f"Boolean({text}.disabled) === arguments[0]", unused, what=f"the text of {task}")
    page.run(CHOOSE, "MIGMPrompt", "dense")
    page.load(page.run(SAVED))
    page.wait(f"{text}.disabled === true", what="the text after opening again")
    if page.renderer == "vue" and frontend(page.client) >= FIRST_GREY_TEXT:
        page.wait("[...document.querySelectorAll('[data-node-id] textarea')].some((area) => area.disabled || area.readOnly)", what="a grey text")


def test_a_socket_that_its_user_has_named_keeps_its_name(page):
    page.run(PUT, "MIGMPrompt")
    page.run(CHOOSE, "MIGMPrompt", "edit")
    labels = "node('MIGMPrompt').inputs.filter((slot) => slot.name.startsWith('task.') && !slot.widget).map((slot) => slot.label)"
    page.wait(f"{labels}[0] === 'model'", what="the sockets are labelled")
    page.run("node('MIGMPrompt').inputs.find((slot) => slot.name === 'task.image').label = 'portrait'")
    page.load(page.run(SAVED))
    page.wait(f"{labels}[0] === 'model'", what="the workflow is open again")
    assert "portrait" in page.run(f"return {labels}")


def test_a_workflow_saved_before_there_were_tasks_keeps_its_values(page):
    page.run(PUT, "MIGMPrompt")
    workflow = page.run(SAVED)
    (prompt,) = workflow["nodes"]
    prompt |= {"widgets_values": ["a red tree", "blue"], "inputs": prompt["inputs"][:0], "outputs": prompt["outputs"][:1]}
    page.load(workflow)
    values = page.run("return Object.fromEntries(node('MIGMPrompt').widgets.map((w) => [w.name, w.value]))")
    assert {"text": "a red tree", "negative": "blue", "task": "text-to-image"}.items() <= values.items()
    assert page.run("return node('MIGMPrompt').outputs.map((slot) => slot.name)") == ["prompt", "images"]


def of_edit(model: str = "bundled demo", width: int = 128, height: int = 64) -> dict:
    """A graph that edits an empty image of a size."""
    graph = Graph()
    loader = graph.node("MIGMLoadLumina", (300, 110), [model, "auto"])
    head = graph.node("MIGMLoadShortcutHead", (300, 86), ["bundled demo"])
    image = graph.node("EmptyImage", (300, 142), [width, height, 1, 0])
    edit = graph.node("MIGMEditImage", (300, 280), ["Paint the house red.", IMAGE_CFG, ""])
    sampler = graph.node("MIGMShortcutSampler", (340, 640), [7, "fixed", *EDIT])
    save = graph.node("PreviewImage", (300, 270))
    graph.link(loader, "model", edit, "model")
    graph.link(image, "IMAGE", edit, "image")
    for origin, output, name in ((loader, "model", "model"), (edit, "prompt", "prompt"), (head, "head", "head")):
        graph.link(origin, output, sampler, name)
    graph.link(sampler, "image", save, "images")
    graph.column(0, 0, 320, (None, "", [loader, head, image]))
    graph.column(360, 0, 320, (None, "", [edit]))
    graph.column(720, 0, 340, (None, "", [sampler]))
    graph.column(1100, 0, 320, (None, "", [save]))
    return graph.workflow("edit", [], [])


def test_a_tasks_plan_counts_with_its_pictures_and_says_what_the_model_was_not_trained_for(page):
    page.load(of_edit())
    page.wait_for_words("This model was not trained for edit, but for text-to-image, paint")
    wait_for_question(page, "task=edit", "pictures=128x64", "image_cfg=4")
    page.wait_for_timeline_in_its_node()
    page.screenshot("edit")
    page.run("const w = node('MIGMEditImage').widgets.find((w) => w.name === 'image_cfg'); w.value = 0; w.callback?.(0); app.api.dispatchCustomEvent('graphChanged')")
    wait_for_question(page, "task=edit", "pictures=128x64", "image_cfg=0")
    page.edit(seed=time.time_ns() % 10**12, steps=4, budget=2)
    page.press_run()
    page.wait_for_end()
    page.wait_for_words("This model was not trained for edit")


def test_a_loaded_picture_counts_with_its_size_and_one_that_a_run_makes_as_unknown(page, server):
    with Image.open(server.base / "input/example.png") as example:
        size = "x".join(map(str, example.size))
    page.load(load("lumina_dimoo_control"))
    wait_for_question(page, "task=dense", f"pictures={size}")
    wait_for_question(page, "task=control", "pictures=&")


def test_a_picture_that_was_missing_counts_with_its_size_as_soon_as_it_is_there(page, server):
    workflow = load("lumina_dimoo_control")
    (loader,) = (node for node in workflow["nodes"] if node["type"] == "LoadImage")
    loader["widgets_values"] = [f"late-{page.renderer}.png"]
    page.load(workflow)
    wait_for_question(page, "task=dense", "pictures=&")
    Image.new("RGB", (96, 48)).save(server.base / "input" / loader["widgets_values"][0])
    page.run("app.api.dispatchCustomEvent('graphChanged')")
    wait_for_question(page, "task=dense", "pictures=96x48")
    Image.new("RGB", (48, 112)).save(server.base / "input" / loader["widgets_values"][0])  # another picture, under its name
    wait_for_question(page, "task=dense", "pictures=48x112", do="app.api.dispatchCustomEvent('graphChanged')")


def wait_for_question(page, *parts: str, do: str = "") -> None:
    """Until the page has asked about a plan in these words; what it does meanwhile lets events come in."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not any(all(part in url for part in parts) for url in page.questions):
        assert time.monotonic() < deadline, (parts, page.questions[-3:])
        page.run(do)
        time.sleep(0.5)  # a page that is told of changes without end does not ask


def asking() -> dict:
    graph = Graph()
    loader = graph.node("MIGMLoadLumina", (300, 110), ["bundled demo", "auto"])
    seed = time.time_ns() % 10**12  # of its own: what is cached is not written again
    ask = graph.node("MIGMAskAboutImage", (340, 560), ["What do you see?", "red house\nblue kite", False, 32, seed])
    shown = graph.node("PreviewAny", (300, 200))
    graph.link(loader, "model", ask, "model")
    graph.link(ask, "answer", shown, "source")
    graph.column(0, 0, 320, (None, "", [loader]))
    graph.column(360, 0, 340, (None, "", [ask]))
    graph.column(740, 0, 320, (None, "", [shown]))
    return graph.workflow("ask", [], [])


def test_an_answer_appears_on_the_node_and_is_there_again_after_a_cached_run(page):
    workflow = asking()
    page.load(workflow)
    page.press_run()
    page.wait(f"{ANSWER}.includes('not trained for understanding')", what="the answer, and what it is worth")
    answer = page.run(f"return {ANSWER}")
    assert answer.split("\n")[0] in ("red house", "blue kite")
    page.screenshot("done")
    for again in ("opened again", "loaded anew"):
        if again == "loaded anew":
            page.open()
        page.load(EMPTY)
        page.load(workflow)
        page.wait(f"{ANSWER} === ''", what="a new node")
        page.press_run()  # nothing is written
        page.wait(f"{ANSWER} === arguments[0]", answer, what=f"the answer, {again}")
    ran = page.client.get("/history?max_items=1")
    cached = [message for _, (kind, message) in enumerate(next(iter(ran.values()))["status"]["messages"]) if kind == "execution_cached"]
    assert cached and len(cached[0]["nodes"]) >= 2, "the question was asked again"


def test_an_answer_is_shown_again_where_the_host_puts_outputs_back(page):
    """As after undo, or a change of tabs."""
    page.load(asking())
    page.press_run()
    page.wait(f"{ANSWER}.includes('not trained')")
    answer = page.run(f"return {ANSWER}")
    page.run("const n = node('MIGMAskAboutImage'); n.widgets.find((w) => w.name === '$$node-text-preview').value = ''")
    page.run(
        """const hooks = app.extensions ?? app.extensionManager?.extensions ?? [];
        const ours = [...hooks].find((each) => each.name === 'MIGM.Answer');
        ours.onNodeOutputsUpdated(app.nodeOutputs)"""
    )
    page.wait(f"{ANSWER} === arguments[0]", answer, what="the answer")


def test_an_answer_in_a_subgraph_is_there_when_that_is_opened(page):
    page.load(asking())
    page.run("app.canvas.selectItems([node('MIGMAskAboutImage')]); window.made = app.canvas.graph.convertToSubgraph(app.canvas.selectedItems)")
    page.press_run()
    page.wait("Object.values(app.nodeOutputs).some((output) => output.migm_notes)", what="the node's output")
    page.run("app.canvas.openSubgraph(window.made.subgraph, window.made.node)")
    page.wait(f"{ANSWER}.includes('not trained')", what="the answer")
    page.run("node('MIGMAskAboutImage').widgets.find((w) => w.name === '$$node-text-preview').value = ''; app.nodeOutputs = { ...app.nodeOutputs }")
    page.wait(f"{ANSWER}.includes('not trained')", what="the answer, where the host puts outputs back")
    page.screenshot()
    page.run("app.canvas.setGraph(root())")


# The last, as it opens the page anew.
def test_tasks_speak_chinese(opened):
    page = opened
    page.start("tasks_speak_chinese")
    page.open(Comfy_Locale="zh")
    try:
        page.load(of_edit())
        page.wait_for_words("此模型没有为 edit 训练过")
        page.screenshot("edit")
        page.load(asking())
        page.run("await app.queuePrompt(0)")
        page.wait(f"{ANSWER}.includes('此模型没有为 understanding 训练过')", what="what the answer is worth, in Chinese")
        page.load(EMPTY)
        page.run(PUT, "MIGMPrompt")
        page.run(CHOOSE, "MIGMPrompt", "style")
        labels = page.run("return node('MIGMPrompt').inputs.filter((slot) => slot.name.startsWith('task.') && !slot.widget).map((slot) => slot.label)")
        assert labels == ["模型", "图像", "风格图像"]
        page.screenshot("prompt")
        assert not page.complaints
    finally:
        page.open()
