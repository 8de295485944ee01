"""The tasks' nodes in the page: a task's own inputs, and an answer on its node while it is written."""

import time

from graphs import Graph

ANSWER = "(app.canvas.graph.nodes.find((n) => n.type === 'MIGMAskAboutImage').widgets ?? []).some((w) => w.name === '$$node-text-preview' && String(w.value).length)"
INPUTS = "node('MIGMImageTask').inputs.map((slot) => slot.name).filter((name) => name.startsWith('task'))"


def test_an_image_task_shows_its_own_inputs_only(page):
    """Newer hosts do; older ones show all."""
    graph = Graph()
    graph.node("MIGMImageTask", (300, 400), [])
    page.load({**graph.workflow("image_task", [], []), "nodes": []})
    page.run("const n = LiteGraph.createNode('MIGMImageTask'); app.canvas.graph.add(n); n.pos = [200, 100]; n.setSize(n.computeSize())")
    info = page.client.get("/object_info/MIGMImageTask")["MIGMImageTask"]["input"]["required"]["task"]
    dynamic = info[0] == "COMFY_DYNAMICCOMBO_V3"
    for task, shown in (("dense", ["image", "map"]), ("style", ["image", "style_image"]), ("control", ["image", "prompt"])):
        page.run("const w = node('MIGMImageTask').widgets.find((w) => w.name === 'task'); w.value = arguments[0]; w.callback?.(arguments[0])", task)
        if dynamic:
            expected = ["task", *(f"task.{name}" for name in shown)]
            page.wait(f"JSON.stringify({INPUTS}.sort()) === JSON.stringify(arguments[0])", sorted(expected), what=f"the inputs of {task}")
        else:
            assert set(page.run(f"return {INPUTS}")) >= {f"task.{name}" for name in shown}
    page.screenshot("done")


def test_an_answer_appears_on_the_node(page):
    graph = Graph()
    loader = graph.node("MIGMLoadLumina", (300, 110), ["bundled demo", "auto"])
    ask = graph.node("MIGMAskAboutImage", (340, 420), ["red heart", "red star\nblue circle", False, 32, time.time_ns() % 10**12])  # a seed of its own: what is cached is not written again
    shown = graph.node("PreviewAny", (300, 200))
    graph.link(loader, "model", ask, "model")
    graph.link(ask, "answer", shown, "source")
    graph.column(0, 0, 320, (None, "", [loader]))
    graph.column(360, 0, 340, (None, "", [ask]))
    graph.column(740, 0, 320, (None, "", [shown]))
    page.load(graph.workflow("ask", [], []))
    page.press_run()
    page.wait(ANSWER, what="the answer on its node")
    page.screenshot("done")
