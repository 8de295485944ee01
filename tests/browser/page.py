"""ComfyUI's page, and what people do in it."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from browser import LOOK_SECONDS, Browser
from client import Client, Refused

EXTENSION = "ComfyUI-MIGM-Shortcut"
SAMPLER = "MIGMShortcutSampler"
SEARCH = ".comfy-vue-node-search-container"

# Functions that scripts below may use.
PRELUDE = """
    const visible = (css) => [...document.querySelectorAll(css)].some((element) => element.getClientRects().length);
    const titled = (title) => app.canvas.graph.nodes.find((n) => n.title === title);
    const node = (type) => (app.canvas.graph ?? app.graph).nodes.find((n) => n.type === type);
    const timeline = () => document.querySelector('.migm-timeline');
    const words = () => timeline()?.querySelector('.migm-timeline-box').innerText ?? '';
    const kinds = () => [...timeline().querySelectorAll('.migm-timeline-cells i')].map((i) => i.className.match(/migm-(full|shortcut|partial)/)[1]);
"""

# The sampler's widget that the first argument names.
WIDGET = f"node('{SAMPLER}').widgets.find((w) => w.name === arguments[0])"

OPTION = "[role=option]"

# The body of a function of a node's type, the name of an input or output of it, and "in" or "out": where that is in the window.
SLOT = """const n = node(arguments[0]), input = arguments[2] === 'in';
    const i = (input ? n.inputs : n.outputs).findIndex((slot) => slot.name === arguments[1]);
    const dot = document.querySelector(`[data-slot-key="${n.id}-${arguments[2]}-${i}"]`);
    if (dot) { const r = dot.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }
    return app.canvasPosToClientPos(n.getConnectionPos(input, i))"""


class Page:
    def __init__(self, browser: Browser, client: Client, renderer: str, screenshots: Path, name: str):
        self.browser, self.client, self.renderer = browser, client, renderer
        self.screenshots, self.name = screenshots, name

    def open(self, theme: str = "dark", **settings) -> None:
        """Open it anew, with nothing left of what was open before.

        Args:
            settings: the host's, with _ for each dot.
        """
        settings = {
            "Comfy_TutorialCompleted": True,  # else it greets with its templates
            "Comfy_Minimap_Visible": False,
            "Comfy_VueNodes_Enabled": self.renderer == "vue",
            "Comfy_ColorPalette": theme,
            "Comfy_Locale": "en",
            "Comfy_Pointer_DoubleClickTime": 1000,  # of a busy machine; the default is 300 ms
            **settings,
        }
        self.client.post("/settings", {name.replace("_", "."): value for name, value in settings.items()})
        self.browser.open(f"{self.client.url}/system_stats")  # of the same origin, and holds no page
        self.browser.script("localStorage.clear(); sessionStorage.clear()")
        self.browser.console()  # what came before is not ours
        self.reload()
        self.load({"nodes": [], "links": [], "last_node_id": 0, "last_link_id": 0, "version": 0.4})

    def reload(self) -> None:
        self.browser.open(self.client.url)
        self.browser.wait("return Boolean(window.app?.vueAppReady && window.app.canvas?.graph)", what="the page is ready")
        # It then opens a workflow of its own, which would replace one that is loaded meanwhile.
        self.wait("Boolean(app.extensionManager?.workflow?.activeWorkflow)", what="the page has opened a workflow")

    def errors(self) -> list[str]:
        """Errors in the console that name our files, since the last call."""
        return [entry["message"] for entry in self.browser.console() if entry["level"] == "SEVERE" and EXTENSION in entry["message"]]

    def screenshot(self, what: str = "") -> Path:
        path = self.screenshots / "-".join(filter(None, (self.name, what, self.renderer)))
        self.browser.screenshot(path := path.with_suffix(".png"))
        return path

    # Looking

    def run(self, body: str, *arguments):
        """What a function with this body returns; it may use ``await`` and PRELUDE."""
        return self.browser.script(f"{PRELUDE} return (async function () {{ {body} }}).apply(null, arguments)", *arguments)

    def wait(self, condition: str, *arguments, what: str = "", seconds: float = 120):
        """Wait for a JavaScript expression to be true; return its value."""
        return self.browser.wait(f"{PRELUDE} return {condition}", *arguments, what=what or condition, seconds=seconds)

    def kinds(self) -> list[str]:
        """Each cell of the first timeline, by kind."""
        return self.run("return kinds()")

    def words(self) -> str:
        """What the first timeline says."""
        return self.run("return words()")

    def wait_for_words(self, text: str) -> None:
        self.wait("words().includes(arguments[0])", text, what=f"the timeline says {text!r}")

    def wait_for_timeline_in_its_node(self) -> None:
        """Until all of the timeline is seen, inside the box of its node: both are drawn a moment after what they say."""
        self.wait(
            """(() => {
                const box = timeline().getBoundingClientRect(), n = node('MIGMShortcutSampler');
                const element = timeline().closest('[data-node-id]')?.getBoundingClientRect();
                const [x, y] = app.canvasPosToClientPos([n.pos[0], n.pos[1]]);
                const s = app.canvas.ds.scale, own = element ?? { left: x, top: y, right: x + n.size[0] * s, bottom: y + n.size[1] * s };
                return box.height > 20 && box.left >= own.left - 1 && box.right <= own.right + 1 && box.top >= own.top && box.bottom <= own.bottom + 1
            })()""",
            what="the timeline is inside its node",
        )

    # Doing

    def do_until(self, do: Callable[[], None], condition: str, *arguments, what: str = "") -> None:
        """Do something by hand until a JavaScript expression is true: see Browser.do_until."""
        self.browser.do_until(do, lambda seconds: self.wait(condition, *arguments, what=what, seconds=seconds), what or condition)

    def load(self, workflow: dict) -> None:
        self.run("await app.loadGraphData(arguments[0])", workflow)

    def select_template(self, name: str) -> None:
        """Open the template browser, look under the extension's name, and choose one."""
        button, dialog = "button[aria-label='Templates'], .templates-tab-button, button[aria-label^='Templates']", "[role='dialog'] *, .p-dialog *"
        card = f"[data-testid='template-workflow-{name}']"
        self.do_until(lambda: self.browser.click(button), "visible(arguments[0])", dialog, what="the template browser is open")
        # The dialog takes no choice while it is still reading its lists.
        self.do_until(lambda: self.browser.click(dialog, EXTENSION, innermost=True), "visible(arguments[0])", card, what=f"the template {name} is listed")
        self.screenshot("templates")
        self.do_until(lambda: self.browser.click(card), "!visible(arguments[0])", card, what="the template is chosen")

    def press_run(self) -> None:
        """Press Run, until the host has one prompt more."""
        before = self._prompts()

        def queued(seconds: float) -> None:
            wait_until(lambda: self._prompts() - before, seconds)

        press = "[data-testid='queue-button'] button, button[aria-label='Run'], .actionbar button"
        self.browser.do_until(lambda: self.browser.click(press, "Run"), queued, "a prompt is queued", tries=3, seconds=30)

    def _prompts(self) -> set[str]:
        """Each prompt that the host has or had."""
        queue = self.client.get("/queue")
        waiting = {prompt[1] for prompts in (queue["queue_running"], queue["queue_pending"]) for prompt in prompts}
        return waiting | set(self.client.get("/history"))

    def add_from_search(self, name: str, x: float, y: float) -> None:
        """Search for a node, with a double click on an empty place of the canvas, and choose it; then drag it by its title a little."""

        def search() -> None:
            self.do_until(lambda: self._open_search(x, y), "visible(arguments[0])", f"{SEARCH} input", what="the search is open")
            self.do_until(lambda: self._fill(f"{SEARCH} input", name), "document.querySelector(arguments[0])?.value === arguments[1]", f"{SEARCH} input", name)
            self.browser.click(f"{SEARCH} [role='option']", name)

        def drag() -> None:
            start = self._on_canvas("const n = titled(arguments[0]); return app.canvasPosToClientPos([n.pos[0] + 60, n.pos[1] - 14])", name)
            self.browser.drag(start, (start[0] + 20, start[1] + 30))

        self.do_until(search, "Boolean(titled(arguments[0]))", name, what=f"{name} is in the graph")
        before = self.run("return titled(arguments[0]).pos[1]", name)
        self.do_until(drag, "titled(arguments[0]).pos[1] > arguments[1] + 5", name, before, what=f"{name} was dragged")

    def _open_search(self, x: float, y: float) -> None:
        if not self.run("return visible(arguments[0])", SEARCH):
            self.browser.click_at(*self._on_canvas("return [...arguments]", x, y), count=2)

    def _fill(self, css: str, text: str) -> None:
        """Type a text into a field in the place of what is in it."""
        if not self.run("return document.activeElement?.matches(arguments[0])", css):
            self.browser.click(css)
        self.browser.type("a", "Control")
        self.browser.type(text)

    def _on_canvas(self, where: str, *arguments) -> tuple[float, float]:
        """The place in the window that a function with this body returns, once it rests and nothing but nodes lies over the canvas there.

        What was chosen in a dialog is done before the dialog is gone: for that while its mask takes the pointer.
        """
        look = f"""{PRELUDE} const at = (function () {{ {where} }}).apply(null, arguments), hit = document.elementFromPoint(...at);
            return {{ at, free: hit === app.canvas.canvas || Boolean(hit?.closest('[data-node-id], .dom-widget')), over: hit?.outerHTML }}"""
        return self.browser.settled(look, *arguments, seconds=20, what="a place on the canvas")

    def connect(self, source: tuple[str, str], target: tuple[str, str]) -> None:
        """Drag from an output, as (node type, name), to an input."""

        def drag() -> None:
            if self.run("return visible(arguments[0])", SEARCH):  # it opens where a link is dropped beside its target
                self.browser.type("Escape")
            self.browser.drag(self._on_canvas(SLOT, *source, "out"), self._on_canvas(SLOT, *target, "in"))

        connected = "node(arguments[0]).inputs.find((slot) => slot.name === arguments[1]).link !== null"
        self.do_until(drag, connected, *target, what=f"{source} is connected to {target}")

    def choose(self, widget: str, value: str) -> None:
        """Choose an option of the sampler, by hand."""
        has = f"{WIDGET}.value === arguments[1]"
        if self.renderer == "vue":
            self.do_until(lambda: self._pick(widget, value), has, widget, value, what=f"{widget} is {value}")
            self.wait(f"!visible({OPTION!r})", what="the list is closed")
            return
        options = self.run(f"return {WIDGET}.options.values", widget)
        start, end = options.index(self.value(widget)), options.index(value)
        way = 1 if end > start else -1
        for index in range(start + way, end + way, way) if start != end else ():
            step = options[index]
            self.do_until(lambda: self.browser.click_at(*self._arrow(widget, right=way > 0)), has, widget, step, what=f"{widget} is {step}")

    def _pick(self, widget: str, value: str) -> None:
        if not self.run("return visible(arguments[0])", OPTION):
            self.browser.click_at(*self._row(widget, "[role='combobox'], .p-select, button"))
        self.browser.click(OPTION, value)

    def increase(self, widget: str) -> None:
        """One click on the arrow that makes a number of the sampler larger."""

        def click() -> None:
            self.browser.click_at(*(self._row(widget, ".p-inputnumber-increment-button") if self.renderer == "vue" else self._arrow(widget)))

        self.do_until(click, f"{WIDGET}.value > arguments[1]", widget, self.value(widget), what=f"{widget} is larger")

    def value(self, widget: str):
        return self.run(f"return {WIDGET}.value", widget)

    def set(self, widget: str, value) -> None:
        """Set a widget of the sampler as an edit does."""
        self.run(
            "const n = node('MIGMShortcutSampler'), w = n.widgets.find((w) => w.name === arguments[0]); w.value = arguments[1]; w.callback?.(w.value, app.canvas, n)",
            widget,
            value,
        )

    def _arrow(self, widget: str, right: bool = True) -> tuple[float, float]:
        return self._on_canvas(
            f"""const n = node('{SAMPLER}');
            return app.canvasPosToClientPos([n.pos[0] + (arguments[1] ? n.size[0] - 24 : 24), n.pos[1] + {WIDGET}.y + 10])""",
            widget,
            right,
        )

    def _row(self, widget: str, css: str) -> tuple[float, float]:
        """Where an element in the row of a widget is."""
        body = """return [...document.querySelectorAll('.lg-node-widget, .lg-widget-container')]
            .find((row) => row.innerText.trim().startsWith(arguments[0]))?.querySelector(arguments[1]) ?? null"""
        return self.browser.point(body, widget, css, what=f"the row of {widget}")

    def save_as(self, name: str) -> None:
        """Save the workflow, by keyboard, under a name."""
        field = ".p-dialog input, [role='dialog'] input"
        self.do_until(lambda: self.browser.type("s", "Control"), "visible(arguments[0])", field, what="it asks for a name")
        self.browser.click(field)  # the host notes what was changed in a Vue node at the next click, and saves what it has noted
        self.do_until(lambda: self._fill(field, name), "document.activeElement?.value === arguments[0]", name, what="the name is typed")

        def saved(seconds: float) -> None:
            wait_until(lambda: is_saved(self.client, name), seconds)

        self.browser.do_until(lambda: self.browser.type("Enter"), saved, f"{name} is saved", seconds=20)


def wait_until(happened: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {seconds:g} s")
        time.sleep(LOOK_SECONDS)


def is_saved(client: Client, name: str) -> bool:
    try:
        return f"{name}.json" in client.get("/userdata?dir=workflows")
    except Refused:  # there is no such folder before the first
        return False


def saved(client: Client, name: str) -> dict:
    """A workflow that the page saved on the server."""
    return json.loads(client._open(f"/userdata/workflows%2F{name}.json"))
