"""ComfyUI's page, and what people do in it."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from client import Client, Refused

EXTENSION = "ComfyUI-MIGM-Shortcut"
SAMPLER = "MIGMShortcutSampler"
WAIT_SECONDS = 30
RUN_SECONDS = 180  # a busy machine is slow
TRY_SECONDS = 6  # for the effect of a gesture
TRIES = 4
EMPTY = {"nodes": [], "links": [], "last_node_id": 0, "last_link_id": 0, "version": 0.4}

# The node search: of new frontends, and of older ones.
SEARCH = "[role='dialog'] input[role='combobox'], .comfy-vue-node-search-container input"
FOUND = "[data-testid='result-item'], .comfy-vue-node-search-container [role='option']"

# Functions that scripts below may use.
PRELUDE = """
    const visible = (css) => [...document.querySelectorAll(css)].some((element) => element.getClientRects().length);
    const root = () => app.rootGraph ?? app.graph;
    const node = (type) => app.canvas.graph.nodes.find((n) => n.type === type);
    const timeline = () => document.querySelector('.migm-timeline');
    const words = () => timeline()?.querySelector('.migm-timeline-box').innerText ?? '';
    const kinds = () => [...timeline().querySelectorAll('.migm-timeline-steps i')].map((i) => i.dataset.kind);
    const sampler = () => app.canvas.graph.nodes.find((n) => n.widgets?.some((w) => w.name === 'step_timeline'));
    const widget = (name) => sampler().widgets.find((w) => w.name === name);
"""

OPTION = "[role=option]"

# The body of a function of a node's type, the name of an input or output of it, and "in" or "out": where that is in the window.
SLOT = """const n = node(arguments[0]), input = arguments[2] === 'in';
    const i = (input ? n.inputs : n.outputs).findIndex((slot) => slot.name === arguments[1]);
    const dot = document.querySelector(`[data-slot-key="${n.id}-${arguments[2]}-${i}"]`);
    if (dot) { const r = dot.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }
    return app.canvasPosToClientPos(n.getConnectionPos(input, i))"""


class Page:
    """A tab with ComfyUI in it. A context manager.

    Attributes:
        complaints: errors and warnings that name our files, of this test.
        questions: URLs of the questions about plans that were asked in this test.
    """

    def __init__(self, browser, client: Client, renderer: str, screenshots: Path):
        self.tab = browser.new_page(viewport={"width": 1500, "height": 950}, locale="en")
        self.tab.set_default_timeout(WAIT_SECONDS * 1000)
        self.client, self.renderer, self.screenshots = client, renderer, screenshots
        self.name, self.complaints, self.questions = "", [], []
        self.tab.on("console", self._heard)
        self.tab.on("pageerror", lambda error: self.complaints.append(error.stack or str(error)) if EXTENSION in (error.stack or "") else None)
        self.tab.on("request", lambda request: self.questions.append(request.url) if "/migm/plan" in request.url else None)
        self.tab.on("dialog", lambda dialog: dialog.accept())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tab.close()

    def _heard(self, message) -> None:
        if message.type in ("error", "warning") and EXTENSION in message.text + (message.location or {}).get("url", ""):
            self.complaints.append(message.text)

    def open(self, **settings) -> None:
        """Open it anew.

        Args:
            settings: the host's, with _ for each dot.
        """
        settings = {
            "Comfy_TutorialCompleted": True,  # else it greets with its templates
            "Comfy_Minimap_Visible": False,
            "Comfy_VueNodes_Enabled": self.renderer == "vue",
            "Comfy_Node_AlwaysShowAdvancedWidgets": True,
            "Comfy_ColorPalette": "dark",
            "Comfy_Locale": "en",
            "Comfy_Pointer_DoubleClickTime": 1000,  # of a busy machine; the default is 300 ms
            **settings,
        }
        self.client.post("/settings", {name.replace("_", "."): value for name, value in settings.items()})
        self.tab.goto(self.client.url)
        # It opens a workflow of its own, which would replace one that is loaded meanwhile.
        self.wait("Boolean(window.app?.vueAppReady && app.canvas?.graph && app.extensionManager?.workflow?.activeWorkflow)", what="the page is ready")

    def start(self, name: str) -> None:
        """Begin a test, with an empty graph."""
        self.tab.unroute_all()
        self.tab.keyboard.press("Escape")
        self.load(EMPTY)
        self.tab.mouse.move(5, 500)
        self.name = name
        self.complaints.clear()
        self.questions.clear()

    def screenshot(self, what: str = "") -> None:
        self.screenshots.mkdir(parents=True, exist_ok=True)
        self.tab.screenshot(path=self.screenshots / ("-".join(filter(None, (self.name, what, self.renderer))) + ".png"))

    # Looking

    def run(self, body: str, *arguments):
        """What a function with this body returns; it may use ``await``, ``arguments`` and PRELUDE."""
        return self.tab.evaluate(f"(given) => {{ {PRELUDE} return (async function () {{ {body} }}).apply(null, given); }}", list(arguments))

    def wait(self, condition: str, *arguments, what: str = "", seconds: float = WAIT_SECONDS):
        """Wait for a JavaScript expression to be true."""
        from playwright.sync_api import TimeoutError as Late

        script = f"(given) => {{ {PRELUDE} return (function () {{ return {condition}; }}).apply(null, given); }}"
        try:
            self.tab.wait_for_function(script, arg=list(arguments), timeout=seconds * 1000, polling=100)
        except Late:
            raise TimeoutError(f"not in {seconds:g} s: {what or condition}; the timeline says {self.words()!r}") from None

    def wait_until_still(self, body: str) -> None:
        """Until a function with this body returns the same twice, a moment apart: the page draws step by step."""
        deadline, before = time.monotonic() + WAIT_SECONDS, None
        while (now := self.run(body)) != before:
            assert time.monotonic() < deadline, "the page does not come to rest"
            before = now
            time.sleep(0.5)

    def kinds(self) -> list[str]:
        """Each step of the first timeline, by kind."""
        return self.run("return kinds()")

    def words(self) -> str:
        """What the first timeline says."""
        return self.run("return words()")

    def wait_for_words(self, text: str, seconds: float = WAIT_SECONDS) -> None:
        self.wait("words().includes(arguments[0])", text, what=f"the timeline says {text!r}", seconds=seconds)

    def wait_for_end(self) -> None:
        """Until a run is over, which takes the bundled model longer than anything else on the page."""
        self.wait_for_words("Took", seconds=RUN_SECONDS)

    def wait_for_timeline_in_its_node(self) -> None:
        """Until all of the timeline is seen, inside the box of its node: both are drawn a moment after what they say."""
        self.wait(
            """(() => {
                const box = timeline().querySelector('.migm-timeline-box').getBoundingClientRect(), n = sampler();
                const element = timeline().closest('[data-node-id]')?.getBoundingClientRect();
                const [x, y] = app.canvasPosToClientPos([n.pos[0], n.pos[1]]);
                const s = app.canvas.ds.scale, own = element ?? { left: x, top: y, right: x + n.size[0] * s, bottom: y + n.size[1] * s };
                return box.height > 20 && box.left >= own.left - 1 && box.right <= own.right + 1 && box.top >= own.top && box.bottom <= own.bottom + 1
            })()""",
            what="the timeline is inside its node",
        )

    def value(self, widget: str):
        """What a widget of the sampler is set to."""
        return self.run("return widget(arguments[0]).value", widget)

    # Doing

    def do_until(self, do: Callable[[], None], condition: str, *arguments, what: str = "", seconds: float = TRY_SECONDS) -> None:
        """Do something by hand until a JavaScript expression is true. A busy page loses a gesture: then people do it again."""
        for left in reversed(range(TRIES)):
            try:
                do()
                return self.wait(condition, *arguments, what=what, seconds=seconds)
            except Exception:
                if not left:
                    raise

    def load(self, workflow: dict) -> None:
        self.run("await app.loadGraphData(arguments[0])", workflow)

    def edit(self, **values) -> None:
        """Set widgets of the sampler as edits do."""
        self.run(
            """const n = sampler();
            for (const [name, value] of Object.entries(arguments[0])) { const w = widget(name); w.value = value; w.callback?.(value, app.canvas, n); }""",
            values,
        )

    def press(self, button: str) -> None:
        """Press a button of the timeline."""
        self.tab.locator(".migm-timeline button", has_text=button).click()

    def undo(self) -> None:
        self.tab.keyboard.press("Control+z")

    def select_template(self, name: str) -> None:
        """Open the template browser, look under the extension's name, and choose one.

        An old template browser stays busy where the host's own templates are not installed: there it is loaded without.
        """
        if not self.has_template_browser:
            return self.load(self.client.get(f"/api/workflow_templates/{EXTENSION}/{name}.json"))
        button, dialog = "button[aria-label='Templates'], .templates-tab-button, button[aria-label^='Templates']", "[role='dialog'] *, .p-dialog *"
        card = f"[data-testid='template-workflow-{name}']"
        self.do_until(lambda: self.tab.locator(button).first.click(timeout=8000), "visible(arguments[0])", dialog, what="the template browser is open")
        # The dialog takes no choice while it is still reading its lists.
        self.do_until(
            lambda: self.tab.locator("[role='dialog'], .p-dialog").get_by_text(EXTENSION, exact=True).first.click(timeout=8000),
            "visible(arguments[0])",
            card,
            what=f"the template {name} is listed",
        )
        self.do_until(lambda: self.tab.locator(card).click(timeout=8000), "!visible(arguments[0])", card, what="the template is chosen")

    @property
    def has_template_browser(self) -> bool:
        try:
            return bool(self.client.get("/templates/index.json"))
        except Refused:
            return frontend(self.client) >= (1, 28)

    def press_run(self) -> None:
        """Press Run, until the host has one prompt more."""
        before = self._prompts()
        buttons = self.tab.locator("[data-testid='queue-button'] button, button[aria-label='Run'], .actionbar button").filter(has_text="Run")
        buttons.first.click()
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._prompts() - before:
            assert time.monotonic() < deadline, "no prompt was queued"
            time.sleep(0.05)

    def _prompts(self) -> set[str]:
        """Each prompt that the host has or had."""
        queue = self.client.get("/queue")
        waiting = {prompt[1] for prompts in (queue["queue_running"], queue["queue_pending"]) for prompt in prompts}
        return waiting | set(self.client.get("/history"))

    def search(self, text: str, x: float, y: float) -> None:
        """Open the node search, with a double click on an empty place of the canvas, and type; the results are there then."""
        self.do_until(lambda: self.tab.mouse.dblclick(x, y), "visible(arguments[0])", SEARCH, what="the search is open")
        field = self.tab.locator(SEARCH).first
        field.fill(text)
        self.tab.locator(FOUND).first.wait_for()

    def add_from_search(self, name: str, x: float, y: float, text: str = "") -> None:
        """Search for a node by its name, or another text, choose it, and place it: in new frontends it hangs on the pointer until a click."""
        self.search(text or name, x, y)
        self.tab.locator(FOUND).filter(has_text=name).first.click()
        self.wait("app.canvas.graph.nodes.some((n) => n.title === arguments[0])", name, what=f"{name} is in the graph")
        self.wait(f"!visible({SEARCH!r})", what="the search is closed")
        self.tab.mouse.move(x + 5, y)
        self.tab.mouse.move(x, y)
        self.do_until(lambda: self.tab.mouse.click(x, y), "(app.canvas.state.ghostNodeId ?? null) === null", what=f"{name} is placed")

    def connect(self, source: tuple[str, str], target: tuple[str, str]) -> None:
        """Drag from an output, as (node type, name), to an input."""

        def drag() -> None:
            self.tab.keyboard.press("Escape")  # a search opens where a link is dropped beside its target
            self.tab.mouse.move(*self.run(SLOT, *source, "out"))
            self.tab.mouse.down()
            self.tab.mouse.move(*self.run(SLOT, *target, "in"), steps=6)
            self.tab.mouse.up()

        connected = "node(arguments[0]).isInputConnected(node(arguments[0]).inputs.findIndex((slot) => slot.name === arguments[1]))"
        self.do_until(drag, connected, *target, what=f"{source} is connected to {target}")

    def choose(self, widget: str, value: str) -> None:
        """Choose an option of the sampler, by hand."""
        if self.renderer == "vue":
            self._row(widget).locator("[role='combobox'], .p-select, button").first.click()
            self.tab.locator(OPTION).filter(has_text=value).first.click()
            return self.wait("widget(arguments[0]).value === arguments[1]", widget, value)
        options = self.run("return widget(arguments[0]).options.values", widget)
        start, end = options.index(self.value(widget)), options.index(value)
        way = 1 if end > start else -1
        for index in range(start + way, end + way, way) if start != end else ():
            self._click_arrow(widget, right=way > 0)
            self.wait("widget(arguments[0]).value === arguments[1]", widget, options[index])

    def increase(self, widget: str) -> None:
        """One click on the arrow that makes a number of the sampler larger."""
        before = self.value(widget)
        if self.renderer == "vue":
            self._row(widget).locator(".p-inputnumber-increment-button, button[aria-label*='ncre'], [data-testid='increment']").first.click()
        else:
            self._click_arrow(widget)
        self.wait("widget(arguments[0]).value > arguments[1]", widget, before)

    def _click_arrow(self, widget: str, right: bool = True) -> None:
        """In the classic canvas, once the widget was drawn where it is."""
        at = self.run(
            f"""app.canvas.draw(true, true); const n = node('{SAMPLER}');
            return app.canvasPosToClientPos([n.pos[0] + (arguments[1] ? n.size[0] - 24 : 24), n.pos[1] + widget(arguments[0]).y + 10])""",
            widget,
            right,
        )
        self.tab.mouse.click(*at)

    def _row(self, widget: str):
        """In Vue nodes, the row of a widget of the sampler."""
        rows = self.tab.locator(f"[data-node-id='{self.run(f'return node({SAMPLER!r}).id')}'] :is(.lg-node-widget, .lg-widget-container)")
        return rows.filter(has=self.tab.get_by_text(widget, exact=True)).first

    def save_as(self, name: str) -> None:
        """Save the workflow, by keyboard, under a name."""
        self.tab.mouse.click(1000, 900)  # the host notes what was changed in a Vue node at the next click, and saves what it has noted
        field = ".p-dialog input, [role='dialog'] input"
        self.do_until(lambda: self.tab.keyboard.press("Control+s"), "visible(arguments[0])", field, what="it asks for a name")
        self.tab.locator(field).first.fill(name)
        self.tab.keyboard.press("Enter")
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_saved(self.client, name):
            assert time.monotonic() < deadline, f"{name} was not saved"
            time.sleep(0.1)


def frontend(client: Client) -> tuple[int, ...]:
    """The version of the host's page, major and minor."""
    return tuple(map(int, client.get("/system_stats")["system"].get("required_frontend_version", "0.0").split(".")[:2]))


def is_saved(client: Client, name: str) -> bool:
    try:
        return f"{name}.json" in client.get("/userdata?dir=workflows")
    except Refused:  # there is no such folder before the first
        return False


def saved(client: Client, name: str) -> dict:
    """A workflow that the page saved on the server."""
    return json.loads(client._open(f"/userdata/workflows%2F{name}.json"))
