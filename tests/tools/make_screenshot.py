"""Take the README's screenshot, web/docs/comfyui.png: the demo workflow in a real ComfyUI, right after a run.

    python tests/tools/make_screenshot.py [--vue] [--out PATH]

Takes the newest host of tests/hosts.py and the Chromium of tests/browser.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "browser"), str(TESTS / "host"), str(TESTS)]

from conftest import FLAGS, program  # noqa: E402, I001 - of tests/browser; hosts puts that of tests before it
import hosts  # noqa: E402
from page import SAMPLER, Page  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

TEMPLATE = "demo_text_to_image"
TARGET = TESTS.parent / "web" / "docs" / "comfyui.png"
TRIES = 5
MARGIN = 24  # pixels
SHOWN = "app.canvas.graph.nodes.some((n) => ['SaveImage', 'PreviewImage'].includes(n.type) && app.nodeOutputs[n.id]?.images?.length)"


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the README's screenshot.")
    parser.add_argument("--vue", action="store_true", help="nodes as elements, not on a canvas")
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()
    host = hosts.Setting(hosts.hosts()[0], False)
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        for name in ("custom_nodes", "input", "output", "models/migm"):
            (base / name).mkdir(parents=True)
        (base / "custom_nodes" / hosts.EXTENSION).symlink_to(TESTS.parent)
        (base / "extra_model_paths.yaml").write_text("{}\n")
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        with hosts.serving(host, base, str(hosts.python_of(host.path)), environment) as (client, _, _), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program(), args=FLAGS)
            with Page(browser, client, "vue" if args.vue else "classic", base) as page:
                take(page, args.out)
            browser.close()
    picture = Image.open(args.out).convert("RGB")
    picture.save(args.out, optimize=True)
    print(f"{args.out}: ComfyUI {hosts.version(host.path)}, {picture.width}x{picture.height}, {args.out.stat().st_size:,} bytes")


def take(page: Page, path: Path) -> None:
    """Open the template, run it until the model is warm and a preview came, and look."""
    page.open()
    page.select_template(TEMPLATE)
    page.wait(f"Boolean(node('{SAMPLER}'))", what="the template is open")
    page.wait_for_words("times as fast")
    page.edit(control_after_generate="fixed")
    seed = page.value("seed")
    page.run("window.previews = 0; app.api.addEventListener('b_preview', () => window.previews++)")
    for _ in range(TRIES):
        for each in (seed + 1, seed):
            page.edit(seed=each)
            page.run("window.previews = 0")
            page.press_run()
            page.wait_for_end()
            page.wait(SHOWN, what="an image")
            page.tab.wait_for_timeout(2000)
        if page.run("return window.previews"):  # a short run has none
            break
    page.tab.mouse.move(750, 900)
    page.tab.keyboard.press("Escape")
    page.tab.wait_for_timeout(9000)  # until messages have gone
    page.tab.screenshot(path=path, clip=around(page))


def around(page: Page) -> dict:
    """The part of the window with all nodes and groups in it, and a margin, in pixels."""
    left, top, right, bottom = page.run(
        """const boxes = [...app.canvas.graph.nodes.map((n) => [n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0], n.pos[1] + n.size[1]]),
            ...app.canvas.graph.groups.map((g) => [g.pos[0], g.pos[1], g.pos[0] + g.size[0], g.pos[1] + g.size[1]])];
        const [left, top] = app.canvasPosToClientPos([0, 1].map((i) => Math.min(...boxes.map((box) => box[i]))));
        const [right, bottom] = app.canvasPosToClientPos([2, 3].map((i) => Math.max(...boxes.map((box) => box[i]))));
        return [left, top, right, bottom];"""
    )
    return {"x": left - MARGIN, "y": top - MARGIN, "width": right - left + 2 * MARGIN, "height": bottom - top + 2 * MARGIN}


if __name__ == "__main__":
    main()
