"""What people do with the extension in the page, by mouse and keyboard."""

import json
import time
from pathlib import Path

import pytest
from page import SAMPLER, saved

# A machine may be too busy for a browser for a while; what is broken fails again.
pytestmark = pytest.mark.flaky(reruns=2, only_rerun=["TimeoutError"])

EXAMPLE = json.loads((Path(__file__).parents[2] / "example_workflows/demo_text_to_image.json").read_text())

# Note what the timeline shows at each step, right after it hears of it.
RECORD = """
    window.lit = []; window.previews = 0;
    app.api.addEventListener('migm.step', () => window.lit.push(document.querySelectorAll('.migm-done').length));
    app.api.addEventListener('b_preview', () => window.previews++);
"""


def new_seed() -> int:
    """One that no test took before: the host does not run again what it has run."""
    return time.time_ns() % 10**12


@pytest.fixture
def demo(page):
    """The page with the demo workflow in it."""
    page.load(EXAMPLE)
    page.wait_for_words("as fast")
    return page


def test_a_template_runs(page):
    page.select_template("demo_text_to_image")
    page.wait(f"Boolean(node('{SAMPLER}'))", what="the template is open")
    page.wait_for_words("as fast")
    kinds = page.kinds()
    assert 1 < kinds.count("full") < kinds.count("shortcut")
    page.wait_for_timeline_in_its_node()
    page.set("seed", new_seed())
    page.run(RECORD)
    page.press_run()
    page.wait_for_words("measured")
    assert page.run("return window.lit") == list(range(1, len(kinds) + 1))
    page.wait("app.canvas.graph.nodes.some((n) => ['SaveImage', 'PreviewImage'].includes(n.type) && app.nodeOutputs[n.id]?.images?.length)", what="an image")
    time.sleep(1)  # drawn
    page.screenshot("done")
    assert page.kinds() == kinds


def test_the_timeline_lights_up_and_a_stopped_run_leaves_the_plan(demo):
    demo.run(
        """const canvas = LiteGraph.createNode('MIGMEmptyCanvas'), sampler = node('MIGMShortcutSampler');
        app.graph.add(canvas);
        canvas.widgets.find((w) => w.name === 'batch').value = 32; // long enough to be looked at
        node('MIGMLoadLumina').connect(0, canvas, canvas.inputs.findIndex((input) => input.name === 'model'));
        canvas.connect(0, sampler, sampler.inputs.findIndex((input) => input.name === 'canvas'))"""
    )
    plan = demo.kinds()
    demo.set("seed", new_seed())
    demo.run(RECORD)
    demo.press_run()
    demo.wait("window.lit.length > 10 && window.previews > 0")
    demo.screenshot("running")
    demo.client.post("/interrupt")
    demo.wait("!document.querySelector('.migm-running')", what="the run is over")
    assert demo.run("return window.lit")[:10] == list(range(1, 11))
    assert demo.kinds() == plan


def test_a_node_from_search_is_dragged_in_and_connected(page):
    page.add_from_search("Load Lumina-DiMOO", 300, 200)
    page.add_from_search("Shortcut Sampler (MIGM)", 760, 150)
    page.wait_for_words("Connect Load Lumina-DiMOO")
    page.connect(("MIGMLoadLumina", "model"), (SAMPLER, "model"))
    page.wait_for_words("Not accelerated. No shortcut head is connected")
    assert set(page.kinds()) == {"full"}
    page.add_from_search("Load Shortcut Head", 300, 420)
    page.connect(("MIGMLoadShortcutHead", "head"), (SAMPLER, "head"))
    page.wait_for_words("as fast")
    assert "shortcut" in page.kinds()
    page.wait_for_timeline_in_its_node()
    page.screenshot()


def test_the_timeline_follows_the_settings(demo):
    balanced = demo.kinds()
    demo.choose("preset", "Fast")
    demo.wait("kinds().filter((k) => k === 'full').length < arguments[0]", balanced.count("full"))
    demo.choose("preset", "Custom")
    steps, budget = demo.value("steps"), demo.value("budget")
    demo.wait("kinds().length === arguments[0]", steps)
    demo.increase("steps")
    demo.wait("kinds().length === arguments[0]", steps + 1)
    demo.increase("budget")
    demo.wait("kinds().filter((k) => k === 'full').length === arguments[0]", budget + 1)
    demo.choose("method", "ml-cache")
    demo.wait("kinds().includes('partial')")
    demo.screenshot("partial")
    demo.choose("method", "vanilla")
    demo.wait("kinds().every((k) => k === 'full')")
    demo.choose("method", "shortcut")
    demo.wait("kinds().includes('shortcut')")
    demo.run("node('MIGMLoadShortcutHead').mode = 2; app.graph.change(); app.api.dispatchCustomEvent('graphChanged')")  # muted
    demo.wait_for_words("No shortcut head is connected")
    demo.screenshot("no-head")


def test_the_timeline_speaks_chinese(page):
    page.open(Comfy_Locale="zh")
    page.load(EXAMPLE)
    page.wait_for_words("倍速度")
    assert f"{page.kinds().count('full')} 完整" in page.words()
    page.set("method", "vanilla")
    page.wait_for_words("未加速")
    page.set("method", "shortcut")
    page.run("node('MIGMLoadShortcutHead').mode = 2; app.graph.change(); app.api.dispatchCustomEvent('graphChanged')")
    page.wait_for_words("没有连接 Shortcut 头")
    page.screenshot()


def test_what_is_wrong_is_said_in_words(demo):
    demo.choose("preset", "Custom")
    demo.set("steps", 5)
    demo.set("budget", 9)
    demo.wait_for_words("budget is 9")
    demo.wait_for_timeline_in_its_node()
    demo.screenshot()
    demo.set("budget", 2)
    demo.wait("kinds().length === 5")
    demo.run("const w = node('MIGMLoadLumina').widgets[0]; w.value = 'gone'; app.api.dispatchCustomEvent('graphChanged')")
    demo.wait_for_words("There is no model 'gone'")


def test_it_survives_save_and_reload(demo):
    full = demo.kinds().count("full")
    demo.choose("preset", "Fast")
    demo.wait("kinds().filter((k) => k === 'full').length < arguments[0]", full)
    kinds = demo.kinds()
    name = f"kept-{demo.renderer}"
    demo.save_as(name)
    demo.reload()
    demo.wait_for_words("as fast")
    assert demo.kinds() == kinds
    demo.screenshot()
    workflow = saved(demo.client, name)
    kept, asked = (next(node["widgets_values"] for node in nodes if node["type"] == SAMPLER) for nodes in (workflow["nodes"], EXAMPLE["nodes"]))
    assert kept == [*asked[:2], "Fast", *asked[3:]]  # nothing of the timeline's, which a host without it would trip over
    assert "step_timeline" not in json.dumps(workflow)


def test_copies_and_subgraphs_have_their_own(demo):
    demo.run("const n = node('MIGMShortcutSampler'); app.canvas.selectItems([n]); app.canvas.copyToClipboard(); app.canvas.pasteFromClipboard({ position: [900, 700] })")
    demo.wait("document.querySelectorAll('.migm-timeline').length === 2")
    demo.run("const twins = app.graph.nodes.filter((n) => n.type === 'MIGMShortcutSampler'); app.graph.remove(twins[1])")
    demo.wait("document.querySelectorAll('.migm-timeline').length === 1")
    demo.run(
        """app.canvas.selectItems([node('MIGMShortcutSampler'), node('MIGMLoadShortcutHead')]);
        const { subgraph, node: outer } = app.graph.convertToSubgraph(app.canvas.selectedItems);
        app.canvas.openSubgraph(subgraph, outer);"""
    )
    demo.wait_for_words("as fast")  # the model is outside, the head inside
    demo.set("seed", new_seed())
    demo.run(RECORD)
    demo.press_run()
    demo.wait_for_words("measured")
    assert demo.run("return window.lit") == list(range(1, len(demo.kinds()) + 1))
    demo.screenshot("subgraph")


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_it_is_legible(page, theme):
    page.open(theme)
    page.load(EXAMPLE)
    page.wait_for_words("as fast")
    contrast = page.run(
        """const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
        const paint = (...colours) => { canvas.clearRect(0, 0, 1, 1); for (const c of colours) { canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); }
            return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)); };
        const light = (rgb) => 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
        const style = (selector) => getComputedStyle(timeline().querySelector(selector));
        const ground = light(paint(document.documentElement.classList.contains('dark-theme') ? '#000' : '#fff', style('.migm-timeline-box').backgroundColor));
        const ratio = (colour) => { const l = light(paint(colour)); return (Math.max(l, ground) + 0.05) / (Math.min(l, ground) + 0.05); };
        return { text: ratio(style('.migm-timeline-headline').color), full: ratio(style('.migm-full').backgroundColor), shortcut: ratio(style('.migm-shortcut').backgroundColor) }"""
    )
    page.screenshot(theme)
    assert contrast["text"] >= 4.5 and contrast["full"] >= 2 and contrast["shortcut"] >= 2, contrast
