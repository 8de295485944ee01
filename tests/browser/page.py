"""ComfyUI's page, and what people do in it."""

import json
from pathlib import Path

from browser import Browser
from client import Client, Refused

EXTENSION = "ComfyUI-MIGM-Shortcut"
SAMPLER = "MIGMShortcutSampler"

# Functions that scripts below may use.
PRELUDE = """
    const node = (type) => (app.canvas.graph ?? app.graph).nodes.find((n) => n.type === type);
    const timeline = () => document.querySelector('.migm-timeline');
    const words = () => timeline()?.querySelector('.migm-timeline-box').innerText ?? '';
    const kinds = () => [...timeline().querySelectorAll('.migm-timeline-cells i')].map((i) => i.className.match(/migm-(full|shortcut|partial)/)[1]);
"""


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

    def timeline_is_in_its_node(self) -> bool:
        """Whether all of the timeline is seen, inside the box of its node."""
        return self.run(
            """const box = timeline().getBoundingClientRect(), n = node('MIGMShortcutSampler');
            const element = timeline().closest('[data-node-id]')?.getBoundingClientRect();
            const [x, y] = app.canvasPosToClientPos([n.pos[0], n.pos[1]]);
            const s = app.canvas.ds.scale, own = element ?? { left: x, top: y, right: x + n.size[0] * s, bottom: y + n.size[1] * s };
            return box.height > 20 && box.left >= own.left - 1 && box.right <= own.right + 1 && box.top >= own.top && box.bottom <= own.bottom + 1"""
        )

    # Doing

    def load(self, workflow: dict) -> None:
        self.run("await app.loadGraphData(arguments[0])", workflow)

    def select_template(self, name: str) -> None:
        """Open the template browser, look under the extension's name, and choose one."""
        self.browser.click("button[aria-label='Templates'], .templates-tab-button, button[aria-label^='Templates']")
        for _ in range(6):  # the dialog takes no choice while it is still reading its lists
            self.browser.click("[role='dialog'] *, .p-dialog *", EXTENSION, innermost=True)
            try:
                self.browser.find(f"[data-testid='template-workflow-{name}']", seconds=8)
                break
            except TimeoutError:
                continue
        self.screenshot("templates")
        self.browser.click(f"[data-testid='template-workflow-{name}']")

    def press_run(self) -> None:
        self.browser.click("[data-testid='queue-button'] button, button[aria-label='Run'], .actionbar button", "Run")

    def add_from_search(self, name: str, x: float, y: float) -> None:
        """Search for a node, with a double click on an empty place of the canvas, and choose it; then drag it by its title a little."""
        for _ in range(5):  # a busy machine may take the two clicks of a double click for single ones
            self.browser.click_at(x, y, count=2)
            try:
                self.browser.find(".comfy-vue-node-search-container input", seconds=8)
                break
            except TimeoutError:
                continue
        self.browser.type(name)
        self.browser.click(".comfy-vue-node-search-container [role='option']", name)
        self.wait("app.canvas.graph.nodes.some((n) => n.title === arguments[0])", name, what=f"{name} is in the graph")
        where = """const n = app.canvas.graph.nodes.find((n) => n.title === arguments[0]);
            return [...n.pos, ...app.canvasPosToClientPos([n.pos[0] + 60, n.pos[1] - 14])]"""
        *before, at_x, at_y = self.run(where, name)
        self.browser.drag((at_x, at_y), (at_x + 20, at_y + 30))
        self.wait("app.canvas.graph.nodes.find((n) => n.title === arguments[0]).pos[1] > arguments[1] + 5", name, before[1], what=f"{name} was dragged")

    def slot(self, type_: str, name: str, side: str) -> tuple[float, float]:
        """Where an input ("in") or output ("out") of a node is in the window."""
        return tuple(
            self.run(
                """const n = node(arguments[0]), input = arguments[2] === 'in';
                const i = (input ? n.inputs : n.outputs).findIndex((slot) => slot.name === arguments[1]);
                const dot = document.querySelector(`[data-slot-key="${n.id}-${arguments[2]}-${i}"]`);
                if (dot) { const r = dot.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }
                return app.canvasPosToClientPos(n.getConnectionPos(input, i))""",
                type_,
                name,
                side,
            )
        )

    def connect(self, source: tuple[str, str], target: tuple[str, str]) -> None:
        """Drag from an output, as (node type, name), to an input."""
        self.browser.drag(self.slot(*source, "out"), self.slot(*target, "in"))

    def choose(self, widget: str, value: str) -> None:
        """Choose an option of the sampler, by hand."""
        if self.renderer == "vue":
            self.browser.click_element(self._row(widget, "[role='combobox'], .p-select, button"))
            self.browser.click("[role='option']", value)
            self.wait("![...document.querySelectorAll('[role=option]')].some((option) => option.getClientRects().length)", what="the list is closed")
            assert self.value(widget) == value
            return
        options = self.run("return node('MIGMShortcutSampler').widgets.find((w) => w.name === arguments[0]).options.values", widget)
        way = options.index(value) - options.index(self.value(widget))
        for _ in range(abs(way)):
            self.browser.click_at(*self._arrow(widget, right=way > 0))
        assert self.value(widget) == value

    def increase(self, widget: str) -> None:
        """One click on the arrow that makes a number of the sampler larger."""
        if self.renderer == "vue":
            self.browser.click_element(self._row(widget, ".p-inputnumber-increment-button"))
        else:
            self.browser.click_at(*self._arrow(widget))

    def value(self, widget: str):
        return self.run("return node('MIGMShortcutSampler').widgets.find((w) => w.name === arguments[0]).value", widget)

    def set(self, widget: str, value) -> None:
        """Set a widget of the sampler as an edit does."""
        self.run(
            "const n = node('MIGMShortcutSampler'), w = n.widgets.find((w) => w.name === arguments[0]); w.value = arguments[1]; w.callback?.(w.value, app.canvas, n)",
            widget,
            value,
        )

    def _arrow(self, widget: str, right: bool = True) -> tuple[float, float]:
        return tuple(
            self.run(
                """const n = node('MIGMShortcutSampler'), w = n.widgets.find((w) => w.name === arguments[0]);
                return app.canvasPosToClientPos([n.pos[0] + (arguments[1] ? n.size[0] - 24 : 24), n.pos[1] + w.y + 10])""",
                widget,
                right,
            )
        )

    def _row(self, widget: str, css: str) -> dict:
        body = """return [...document.querySelectorAll('.lg-node-widget, .lg-widget-container')]
            .find((row) => row.innerText.trim().startsWith(arguments[0]))?.querySelector(arguments[1]) ?? null"""
        return self.browser.wait(body, widget, css, what=f"the row of {widget}")


def is_saved(client: Client, name: str) -> bool:
    try:
        return f"{name}.json" in client.get("/userdata?dir=workflows")
    except Refused:  # there is no such folder before the first
        return False


def saved(client: Client, name: str) -> dict:
    """A workflow that the page saved on the server."""
    return json.loads(client._open(f"/userdata/workflows%2F{name}.json"))
