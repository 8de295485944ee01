"""What people do with the extension in the page, by mouse and keyboard."""

import json
import time
from pathlib import Path

import pytest
from page import EXTENSION, FOUND, RUN_SECONDS, SAMPLER, SEARCH, saved

# A machine may be too busy for a browser for a while; what is broken fails again.
pytestmark = [pytest.mark.flaky(reruns=1, only_rerun=["TimeoutError"]), pytest.mark.hosts("newest", "oldest")]

EXAMPLE = json.loads((Path(__file__).parents[2] / "example_workflows/demo_text_to_image.json").read_text("utf-8"))
OWN = {"steps": 64, "budget": 11, "cfg": 4, "temperature": 1}  # the bundled model's
NAME = "MIGM KSampler (Shortcut)"
MAX_TOKENS = 1024
FEWER = {"steps": 16, "budget": 4}  # where a run's own numbers are not the point

# Note what the timeline shows at each step, right after it hears of it.
RECORD = """
    window.lit = []; window.said = []; window.previews = 0;
    if (!window.recording) {
        window.recording = true;
        app.api.addEventListener('migm.step', () => {
            window.lit.push(document.querySelectorAll('.migm-done').length);
            window.said.push(document.querySelector('.migm-timeline-headline').textContent);
        });
        app.api.addEventListener('b_preview', () => window.previews++);
    }
"""
# How high the sampler is, as it is seen.
HEIGHT = """(() => { const n = node('MIGMShortcutSampler'), element = document.querySelector(`[data-node-id="${n.id}"]`);
    return element ? element.getBoundingClientRect().height / app.canvas.ds.scale : n.size[1]; })()"""


def new_seed() -> int:
    """One that no test took before: the host does not run again what it has run."""
    return time.time_ns() % 10**12


@pytest.fixture
def demo(page):
    """The page with the demo workflow in it, with the model's own settings."""
    page.load(EXAMPLE)
    page.edit(**OWN, method="shortcut", control_after_generate="fixed")
    page.wait_for_words("times as fast")
    return page


@pytest.mark.hosts("all")
def test_a_template_runs_and_opened_again_it_shows_its_last_run_when_that_is_cached(page):
    page.select_template("demo_text_to_image")
    page.wait(f"Boolean(node('{SAMPLER}'))", what="the template is open")
    page.wait_for_words("times as fast")
    kinds = page.kinds()
    assert 1 < kinds.count("full") < kinds.count("shortcut")
    page.wait_for_timeline_in_its_node()
    page.edit(seed=new_seed(), control_after_generate="fixed", **FEWER)
    page.wait(f"kinds().length === {FEWER['steps']}")
    kinds = page.kinds()
    page.run(RECORD)
    page.press_run()
    page.wait_for_end()
    assert "times as fast, measured" in page.words()
    assert page.run("return window.lit") == list(range(1, len(kinds) + 1))
    assert page.run("return window.said.at(-1)").startswith(f"Step {len(kinds)} of {len(kinds)}")
    page.wait("app.canvas.graph.nodes.some((n) => ['SaveImage', 'PreviewImage'].includes(n.type) && app.nodeOutputs[n.id]?.images?.length)", what="an image")
    assert page.kinds() == kinds
    page.screenshot("done")
    took = page.words().splitlines()[0]

    page.load(json.loads(page.run("return JSON.stringify(root().serialize())")))  # a new node
    page.wait_for_words("times as fast, measured")  # the server has measured this model's steps
    if page.client.get(f"/object_info/{SAMPLER}")[SAMPLER].get("has_intermediate_output"):
        page.press_run()  # nothing is sampled
        page.wait_for_words(took)


def test_the_timeline_lights_up_and_a_stopped_run_leaves_the_plan(demo):
    demo.run(
        """const canvas = LiteGraph.createNode('MIGMEmptyCanvas'), sampler = node('MIGMShortcutSampler');
        app.canvas.graph.add(canvas);
        // Long enough to be looked at, and of a size that was not sampled before: then there is a preview, however much it costs.
        for (const [name, value] of [['width', 192], ['batch', 2]]) canvas.widgets.find((w) => w.name === name).value = value;
        node('MIGMLoadLumina').connect(0, canvas, canvas.inputs.findIndex((input) => input.name === 'model'));
        canvas.connect(0, sampler, sampler.inputs.findIndex((input) => input.name === 'canvas'))"""
    )
    plan = demo.kinds()
    demo.edit(seed=new_seed())
    demo.run(RECORD)
    demo.press_run()
    demo.wait("window.lit.length > 10 && window.previews > 0", seconds=RUN_SECONDS)
    if demo.renderer == "vue":  # whose label can be read: it is the image's size, not the enlarged preview's
        demo.wait("/\\b192 [x×] 256\\b/.test(timeline().closest('[data-node-id]').innerText.replace(words(), ''))", what="the preview has the image's size")
    assert "192 × 256" in demo.words()
    demo.screenshot("running")
    demo.client.post("/interrupt")
    demo.wait("!document.querySelector('.migm-running')", what="the run is over")
    assert demo.run("return window.lit")[:10] == list(range(1, 11))
    assert demo.kinds() == plan


def test_labelling_a_preview_leaves_the_canvas_as_another_extension_has_made_it(page):
    written, unpatched, patched = page.run(
        """const { labelPreviews } = await import(`/extensions/${arguments[0]}/preview_label.js`);
        const widget = { name: '$$canvas-image-preview', drawWidget: (context) => context.fillText('512 × 512', 0, 0) };
        labelPreviews({ widgets: [widget] }, 256, 128);
        const context = document.createElement('canvas').getContext('2d'), written = [];
        widget.drawWidget(context);
        const unpatched = !Object.hasOwn(context, 'fillText');
        const patch = (text) => written.push(text);
        context.fillText = patch;
        widget.drawWidget(context);
        return [written, unpatched, context.fillText === patch];""",
        EXTENSION,
    )
    assert written == ["256 × 128"]
    assert unpatched and patched


def test_the_sampler_is_found_as_ksampler_and_offers_the_models_settings(page):
    page.search("ksampler", 760, 250)
    page.wait("[...document.querySelectorAll(arguments[0])].some((found) => found.innerText.includes(arguments[1]))", FOUND, NAME)
    window = page.tab.viewport_size["height"]
    assert page.tab.locator(FOUND).filter(has_text=NAME).first.bounding_box()["y"] < window * 0.85, "not on the first screen"
    page.screenshot("search")
    page.tab.keyboard.press("Escape")
    page.wait(f"!visible({SEARCH!r})")
    page.add_from_search(NAME, 760, 250, text="ksampler")
    page.wait_for_words("Connect a model")
    page.edit(cfg=2, temperature=0.5)
    page.add_from_search("MIGM Load Lumina-DiMOO", 250, 200)
    page.connect(("MIGMLoadLumina", "model"), (SAMPLER, "model"))
    page.wait_for_words("No shortcut head is connected")
    assert set(page.kinds()) <= {"full", "skipped"}
    page.add_from_search("MIGM Load Shortcut Head", 250, 450)
    page.connect(("MIGMLoadShortcutHead", "head"), (SAMPLER, "head"))
    page.wait_for_words("times as fast")
    assert "shortcut" in page.kinds()
    page.wait_for_timeline_in_its_node()
    page.screenshot()
    assert (page.value("cfg"), page.value("temperature")) == (2, 0.5)  # nothing is overwritten unasked
    page.wait_for_words("Use the model's settings")
    page.press("Use the model's settings")
    page.wait("!words().includes(\"Use the model's settings\")")
    assert {name: page.value(name) for name in OWN} == OWN


def test_the_timeline_follows_the_settings(demo):
    demo.increase("steps")
    demo.wait("kinds().length === 65")
    demo.increase("budget")
    demo.wait("kinds().filter((k) => k === 'full').length === 12")
    demo.choose("method", "ml-cache")
    demo.wait("kinds().includes('partial')")
    demo.choose("method", "vanilla")
    demo.wait("kinds().every((k) => k === 'full' || k === 'skipped')")
    demo.wait_for_words("not accelerated")
    demo.choose("method", "shortcut")
    demo.wait("kinds().includes('shortcut')")


def test_presets_write_the_widgets_and_can_be_undone(demo):
    pressed = "[...document.querySelectorAll('.migm-timeline-preset[aria-pressed=true]')].map((b) => b.textContent).join()"
    demo.wait(f"{pressed} === 'Balanced'")
    demo.press("Fast")
    demo.wait("kinds().filter((k) => k === 'full').length === 7")
    assert demo.run(f"return {pressed}") == "Fast"
    assert (demo.value("steps"), demo.value("budget")) == (64, 7)
    demo.undo()
    demo.wait("kinds().filter((k) => k === 'full').length === 11")
    demo.wait("widget('budget').value === 11")
    demo.tab.locator(".migm-timeline button", has_text="Balanced").focus()
    demo.tab.keyboard.press("Tab")
    demo.tab.keyboard.press("Enter")
    demo.wait("kinds().filter((k) => k === 'full').length === 16")
    assert demo.run("return document.activeElement.textContent") == "Quality"
    demo.edit(budget=20)
    demo.wait(f"{pressed} === ''")
    demo.wait_for_words("Use the model's settings")
    demo.screenshot()


def test_the_budget_is_grey_where_it_does_nothing(demo):
    def grey() -> bool:
        return demo.run("return Boolean(widget('budget').disabled)")

    assert not grey()
    demo.edit(method="vanilla")
    demo.wait_for_words("not accelerated")
    assert grey() and "Balanced" not in demo.words()
    demo.edit(method="shortcut")
    demo.wait_for_words("Balanced")
    assert not grey()
    demo.run("node('MIGMLoadShortcutHead').mode = 2; app.api.dispatchCustomEvent('graphChanged')")  # muted
    demo.wait_for_words("No shortcut head is connected")
    assert grey()
    demo.screenshot()


def test_numbers_out_of_range_are_neither_asked_for_nor_shown(demo):
    for number in (50_000_000, 1e300, -3):
        demo.questions.clear()
        demo.edit(steps=number)
        demo.wait_for_words("but must be")
        time.sleep(0.3)
        assert not demo.questions and not demo.kinds()
    demo.edit(steps=MAX_TOKENS)
    demo.wait(f"kinds().length === {MAX_TOKENS}")
    demo.wait_for_timeline_in_its_node()
    demo.screenshot("longest")
    demo.run("const w = node('MIGMLoadLumina').widgets[0]; w.value = 'gone'; app.api.dispatchCustomEvent('graphChanged')")
    demo.wait_for_words("There is no model 'gone'")


def answer(**changes) -> dict:
    """A server's answer about a plan, with changes."""
    kinds = ["full", "shortcut", "partial", "skipped"] * 8
    own = {**OWN, "width": 256, "height": 256}
    presets = {"Quality": {"steps": 64, "budget": 16}, "Balanced": {"steps": 64, "budget": 11}, "Fast": {"steps": 64, "budget": 7}}
    plan = {"method": "shortcut", "steps": 32, "settings": {"budget": 8}, "notes": [], "cautions": [], "kinds": kinds}
    legend = [{"kind": kind, "about": f"A {kind} step."} for kind in kinds[:4]]
    return {**plan, "own": own, "presets": presets, "uses": ["budget"], "method_settings": ["budget"], "legend": legend, "speed_up": None, **changes}


def ask_again(page, **changes) -> None:
    page.tab.unroute_all()
    page.tab.route("**/migm/plan*", lambda route: route.fulfill(json=answer(**changes)))
    page.run("app.api.dispatchCustomEvent('reconnected')")


def test_whatever_a_server_says_is_shown_within_bounds(demo):
    ask_again(demo, kinds=["full"] * 200_000)
    demo.wait(f"kinds().length === {MAX_TOKENS}")
    ask_again(demo, speed_up={"value": 3.69, "source": "measured"})
    demo.wait_for_words("About 3.6 times as fast, measured")
    assert [demo.kinds().count(kind) for kind in ("full", "shortcut", "partial", "skipped")] == [8] * 4 and "8 skipped" in demo.words()
    ask_again(demo, speed_up={"value": 7.19, "source": "sizes"})
    demo.wait_for_words("At most 7.1 times as fast, by the model's sizes")
    ask_again(demo, speed_up=None)
    demo.wait("!words().includes('times as fast')")
    ask_again(demo, kinds="nonsense")
    demo.wait_for_words("The server does not answer")


def test_long_texts_are_wrapped_and_the_node_makes_room_for_them(demo):
    height = "document.querySelector('.migm-timeline-box').offsetHeight"
    before, node = demo.run(f"return [{height}, {HEIGHT}]")
    caution = "This model was trained at 256 by 256 pixels only, so that an image of any other size is little more than noise. "
    ask_again(demo, cautions=[caution * 3, "Pneumono" * 40], notes=[caution])
    demo.wait_for_words(caution.strip())
    demo.wait_for_timeline_in_its_node()
    demo.wait(f"{height} > arguments[0] + 100", before)
    clipped = "[...document.querySelectorAll('.migm-timeline *')].filter((e) => e.scrollWidth > e.clientWidth + 1 && e.clientWidth && getComputedStyle(e).display !== 'inline')"
    assert demo.run(f"return {clipped}.map((e) => e.className)") == []
    demo.screenshot()
    assert demo.run("return root().serialize().nodes.find((n) => n.type === 'MIGMShortcutSampler').size[1]") <= node
    ask_again(demo)
    demo.wait(f"{HEIGHT} <= arguments[0] + 1", node)


def test_words_that_the_model_does_not_know_are_named(demo):
    demo.run("const w = node('MIGMPrompt').widgets[0]; w.value = 'a cat riding a bicycle'; w.callback?.(w.value)")
    demo.edit(seed=new_seed(), steps=4, budget=2)
    demo.press_run()
    demo.wait_for_end()
    for word in ("cat", "riding", "bicycle"):
        demo.wait_for_words(word)
    demo.wait_for_timeline_in_its_node()
    demo.screenshot()


STEP = "app.api.dispatchCustomEvent('migm.step', { node: String(node('MIGMShortcutSampler').id), step: 4, steps: 64, kind: 'full', width: 256, height: 256, model: arguments[0] })"
DONE = "document.querySelectorAll('.migm-done').length"


def test_steps_of_another_workflows_model_are_not_shown(demo):
    demo.run(STEP, "another")
    assert demo.run(f"return {DONE}") == 0
    demo.run(STEP, "bundled demo")
    assert demo.run(f"return {DONE}") == 5


def test_a_run_is_over_when_its_server_has_died(demo):
    demo.run(STEP, "bundled demo")
    assert demo.run(f"return {DONE}") == 5
    demo.run("app.api.dispatchCustomEvent('reconnected')")
    demo.wait(f"{DONE} === 0 && !document.querySelector('.migm-running')")


def test_runs_of_a_list_of_prompts_are_shown_as_one(demo):
    run = {"model": "bundled demo", "method": "shortcut", "steps": 64, "settings": {"budget": 11}, "kinds": demo.kinds(), "speed_up": 4.0}
    runs = [{**run, "seconds": 2.0, "cautions": ["One."], "unknown_words": ["cat"]}, {**run, "seconds": 3.0, "cautions": ["One.", "Two."], "unknown_words": ["dog"]}]
    demo.run("node('MIGMShortcutSampler').onExecuted({ migm_run: arguments[0] })", runs)
    for words in ("Took 5.0 s: 4.0 times as fast", "One.", "Two.", "cat, dog"):
        demo.wait_for_words(words)


def test_a_run_of_a_canvas_without_masked_tokens_says_that_nothing_was_generated(demo):
    run = {"model": "bundled demo", "method": "shortcut", "steps": 64, "settings": {"budget": 11}, "seconds": 2.0, "speed_up": 4.0, "kinds": demo.kinds()}
    nothing = {**run, "seconds": 0.0, "speed_up": None, "kinds": []}
    demo.run("node('MIGMShortcutSampler').onExecuted({ migm_run: [arguments[0]] })", nothing)
    demo.wait_for_words("Nothing was generated: the canvas has no masked tokens.")
    assert not demo.kinds() and "Took" not in demo.words() and "accelerated" not in demo.words()
    demo.run("node('MIGMShortcutSampler').onExecuted({ migm_run: arguments[0] })", [run, nothing])
    demo.wait_for_words("Took 2.0 s: 4.0 times as fast")
    assert demo.kinds() == run["kinds"], "what one of a list did not generate says nothing of the others"


def test_a_setting_may_be_changed_where_its_steps_are_not_known(demo):
    demo.edit(method="vanilla")
    demo.wait("Boolean(widget('budget').disabled)")
    demo.tab.route("**/migm/plan*", lambda route: route.fulfill(status=400, json={"error": "The steps will be known when it runs: steps comes from another node."}))
    demo.run("app.api.dispatchCustomEvent('reconnected')")
    demo.wait_for_words("comes from another node")
    assert not demo.run("return Boolean(widget('budget').disabled)")
    demo.tab.unroute_all()


def test_it_survives_save_and_reload(demo):
    demo.press("Fast")
    demo.wait("kinds().filter((k) => k === 'full').length === 7")
    kinds = demo.kinds()
    name = f"kept-{demo.renderer}"
    demo.save_as(name)
    workflow = saved(demo.client, name)
    demo.load(workflow)
    demo.wait_for_words("times as fast")
    assert demo.kinds() == kinds
    (kept,) = (node["widgets_values"] for node in workflow["nodes"] if node["type"] == SAMPLER)
    values = demo.run("return node('MIGMShortcutSampler').widgets.filter((w) => w.name !== 'step_timeline').map((w) => w.value)")
    assert kept == values  # nothing of the timeline's, which a host without it would trip over
    assert "step_timeline" not in json.dumps(workflow)


def test_copies_and_subgraphs_have_their_own(demo):
    demo.run("const n = node('MIGMShortcutSampler'); app.canvas.selectItems([n]); app.canvas.copyToClipboard(); app.canvas.pasteFromClipboard({ position: [900, 700] })")
    demo.wait("document.querySelectorAll('.migm-timeline').length === 2")
    demo.run("const twins = app.canvas.graph.nodes.filter((n) => n.type === 'MIGMShortcutSampler'); app.canvas.graph.remove(twins[1])")
    demo.wait("document.querySelectorAll('.migm-timeline').length === 1")
    demo.run(
        """app.canvas.selectItems([node('MIGMShortcutSampler'), node('MIGMLoadShortcutHead')]);
        const { subgraph, node: outer } = app.canvas.graph.convertToSubgraph(app.canvas.selectedItems);
        app.canvas.openSubgraph(subgraph, outer);"""
    )
    demo.wait_for_words("times as fast")  # the model is outside, the head inside
    demo.press("Fast")
    demo.wait("kinds().filter((k) => k === 'full').length === 7")
    demo.edit(seed=new_seed(), **FEWER)
    demo.wait(f"kinds().length === {FEWER['steps']}")
    demo.run(RECORD)
    demo.press_run()
    demo.wait_for_end()
    assert demo.run("return window.lit") == list(range(1, len(demo.kinds()) + 1))
    demo.screenshot()
    demo.run("app.canvas.setGraph(root())")


# Each element of the timeline with a text of its own, and how its colour stands out from the ground beneath it.
CONTRAST = """
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const paint = (...colours) => { canvas.clearRect(0, 0, 1, 1); for (const c of colours) { canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)); };
    const light = (rgb) => 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
    const grounds = (e) => [...(e.parentElement ? grounds(e.parentElement) : []), getComputedStyle(e).backgroundColor];
    const ratio = (...colours) => { const a = light(paint(...colours)), b = light(paint(...colours.slice(0, -1))); return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };
    const texts = [...timeline().querySelectorAll('*')].filter((e) => [...e.childNodes].some((c) => c.nodeType === 3 && c.data.trim()) && e.getClientRects().length);
    const text = Object.fromEntries(texts.map((e) => [e.textContent, ratio(...grounds(e), getComputedStyle(e).color)]));
    const marks = ['full', 'shortcut', 'skipped'].map((kind) => timeline().querySelector(`.migm-timeline-steps [data-kind=${kind}]`));
    return { text, marks: marks.map((e) => ratio(...grounds(e.parentElement), getComputedStyle(e).backgroundColor)) };
"""


def test_it_is_legible_in_both_themes(demo):
    ask_again(demo, cautions=["A caution."], notes=["A note."], speed_up={"value": 3, "source": "measured"})
    demo.wait_for_words("A caution.")
    for theme in ("light", "dark"):
        demo.run("await app.extensionManager.setting.set('Comfy.ColorPalette', arguments[0])", theme)
        time.sleep(0.5)
        contrast = demo.run(CONTRAST)
        demo.screenshot(theme)
        assert len(contrast["text"]) >= 8
        assert min(contrast["text"].values()) >= 4.5 and min(contrast["marks"]) >= 2, (theme, contrast)


def english(page) -> list[str]:
    """What the timeline says in English."""
    return [line for line in page.words().splitlines() if line.isascii() and len(line.split()) > 3]


# The last, as it opens the page anew.
def test_the_timeline_speaks_chinese(opened):
    page = opened
    page.start("the_timeline_speaks_chinese")
    page.open(Comfy_Locale="zh")
    try:
        page.load(EXAMPLE)
        page.edit(**OWN, method="shortcut")
        page.wait_for_words("倍速度")
        assert f"{page.kinds().count('full')} 完整" in page.words() and "均衡" in page.words()
        page.run(
            """const canvas = LiteGraph.createNode('MIGMEmptyCanvas'), sampler = node('MIGMShortcutSampler');
            app.canvas.graph.add(canvas);
            for (const name of ['width', 'height']) canvas.widgets.find((w) => w.name === name).value = 128;
            node('MIGMLoadLumina').connect(0, canvas, canvas.inputs.findIndex((input) => input.name === 'model'));
            canvas.connect(0, sampler, sampler.inputs.findIndex((input) => input.name === 'canvas'));
            node('MIGMPrompt').widgets[1].value = 'tree';"""
        )
        page.edit(cfg=0)
        page.wait_for_words("负面提示词")
        page.wait_for_words("128x128")
        page.wait_for_words("使用模型自己的设置")
        page.screenshot("cfg")
        assert not english(page)
        page.edit(method="vanilla")
        page.wait_for_words("未加速")
        page.edit(method="shortcut")
        page.run("node('MIGMLoadShortcutHead').mode = 2; app.api.dispatchCustomEvent('graphChanged')")
        page.wait_for_words("没有连接 Shortcut 头")
        page.screenshot()
        assert not english(page) and not page.complaints
    finally:
        page.open()
