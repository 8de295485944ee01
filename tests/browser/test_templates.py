"""The templates as they open: nodes, groups and notes can be seen and read."""

import itertools

import pytest
from demo_workflows import SEED
from page import EXTENSION
from workflows import NAMES, NOTES, SUBGRAPH_NAMES, SUBGRAPHS, load

pytestmark = pytest.mark.hosts("newest", "oldest")

EDGE = 2  # pixels of the graph, of rounding
SMALLEST = 0.6  # of the page's scale: below it leaves texts out
CONTRAST = 4.5

# Each node's box in the graph with its title: as the page's elements lie, or as its canvas draws them.
BOXES = """
    const [x, y] = app.canvasPosToClientPos([0, 0]), s = app.canvas.ds.scale;
    return Object.fromEntries(app.canvas.graph.nodes.map((n) => {
        const element = document.querySelector(`[data-node-id="${n.id}"]`)?.getBoundingClientRect();
        const own = [n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0], n.pos[1] + n.size[1]];
        return [n.id, element ? [(element.left - x) / s, (element.top - y) / s, (element.right - x) / s, (element.bottom - y) / s] : own];
    }));
"""
# Texts of notes with their contrast: colours laid one over another from the first opaque one behind the text.
CONTRASTS = """
    const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const parts = (colour) => {
        pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
    };
    const over = (front, back) => [0, 1, 2].map((i) => front[i] * front[3] + back[i] * (1 - front[3])).concat(1);
    const light = (colour) => {
        const [r, g, b] = colour.slice(0, 3).map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = [];
    for (const n of app.canvas.graph.nodes.filter((n) => n.type === 'MarkdownNote')) {
        const element = document.querySelector(`[data-node-id="${n.id}"]`), root = element ?? n.widgets[0].element;
        const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
        for (let text; (text = walker.nextNode());) {
            const said = text.textContent.trim(), parent = text.parentElement;
            if (!said || !parent.getClientRects().length || parent.closest('textarea')) continue;
            const layers = [], around = [];
            for (let e = parent; e; e = e.parentElement) around.push(e);
            for (const e of element ? around : around.slice(0, around.indexOf(root) + 1)) {
                const layer = parts(getComputedStyle(e).backgroundColor);
                layers.unshift(layer);
                if (layer[3] === 1) break;
            }
            const behind = layers.reduce((back, front) => over(front, back), parts(n.renderingBgColor ?? n.bgcolor));
            const [r, g, b, a] = parts(getComputedStyle(parent).color), opacity = around.reduce((o, e) => o * getComputedStyle(e).opacity, a);
            const [low, high] = [light(over([r, g, b, opacity], behind)), light(behind)].sort((p, q) => p - q);
            found.push([said, (high + 0.05) / (low + 0.05)]);
        }
    }
    return found;
"""
# Notes whose text is higher than they are.
CUT = """
    return app.canvas.graph.nodes.filter((n) => n.type === 'MarkdownNote').filter((n) => {
        const root = document.querySelector(`[data-node-id="${n.id}"]`) ?? n.widgets[0].element;
        return [root, ...root.querySelectorAll('*')].some((e) => getComputedStyle(e).overflowY !== 'visible' && e.clientHeight > 50 && e.scrollHeight > e.clientHeight + 2);
    }).map((n) => n.title);
"""


@pytest.fixture
def template(page, request):
    """The page with a template open, as from the template browser, and its nodes drawn."""
    workflow = page.client.get(f"/api/workflow_templates/{EXTENSION}/{request.param}.json")
    page.run("await app.loadGraphData(arguments[0], true, true, arguments[1], { openSource: 'template' })", workflow, request.param)
    page.wait("app.canvas.graph.nodes.length === arguments[0]", len(workflow["nodes"]), what="the template is open")
    page.wait_until_still(BOXES)
    return page, workflow


@pytest.mark.parametrize("template", NAMES, indirect=True)
def test_a_template_opens_so_that_it_can_be_read(template):
    page, workflow = template
    page.screenshot(page.run("return app.extensionManager.workflow.activeWorkflow.filename"))
    assert page.run("return app.canvas.ds.scale") >= SMALLEST
    check_that_nodes_lie_apart_and_inside_their_groups(page, workflow)
    assert page.run(CUT) == []
    check_that_notes_can_be_read_in_both_themes(page)


def check_that_nodes_lie_apart_and_inside_their_groups(page, workflow: dict) -> None:
    boxes = {int(id): box for id, box in page.run(BOXES).items()}
    for (one, a), (other, b) in itertools.combinations(boxes.items(), 2):
        assert a[2] <= b[0] + EDGE or b[2] <= a[0] + EDGE or a[3] <= b[1] + EDGE or b[3] <= a[1] + EDGE, (one, other)
    groups = page.run("return app.canvas.graph.groups.map((g) => [g.pos[0], g.pos[1], g.pos[0] + g.size[0], g.pos[1] + g.size[1]])")  # some pages scale them
    for node in workflow["nodes"]:
        left, top, right, bottom = boxes[node["id"]]
        around = [g for g in groups if g[0] - EDGE <= left and g[1] - EDGE <= top and right <= g[2] + EDGE and bottom <= g[3] + EDGE]
        assert len(around) == (node["type"] not in NOTES), node["type"]


def check_that_notes_can_be_read_in_both_themes(page) -> None:
    try:
        for theme in ("light", "dark"):
            page.run("await app.extensionManager.setting.set('Comfy.ColorPalette', arguments[0])", theme)
            page.wait_until_still(CONTRASTS)
            texts = page.run(CONTRASTS)
            assert texts
            assert [(said, contrast) for said, contrast in texts if contrast < CONTRAST] == [], theme
    finally:
        page.run("await app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")


@pytest.mark.parametrize("name", SUBGRAPH_NAMES)
def test_a_subgraph_shows_its_widgets_with_their_values(page, name):
    workflow = load(name, SUBGRAPHS)
    page.load(workflow)
    shown = page.run("return app.canvas.graph.nodes[0].widgets.map((w) => [w.name, w.value])")
    shown = {name.split(": ")[-1]: value for name, value in shown}  # older pages say whose it is
    assert {"seed": SEED, "steps": 64, "budget": 11, "cfg": 4, "model": "bundled demo", "head": "bundled demo"}.items() <= shown.items()
