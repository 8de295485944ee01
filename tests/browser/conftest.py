"""A page of a real ComfyUI in a real Chromium, driven by Playwright. Hosts are those of tests/hosts.py; screenshots are left in test-output/browser.

One browser for all, and one page for each host and renderer: loading it takes longer than most tests.
"""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # page

from hosts import setting_of
from page import Page, frontend

SCREENSHOTS = Path(__file__).parents[2] / "test-output" / "browser"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
FIRST_VUE_NODES = (1, 28)  # of the frontend


def missing() -> str | None:
    """What is not there of what these tests need; None if all is."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "Playwright not found: pip install playwright"
    return None if program() else "no Chromium found: apt-get install chromium"


def program() -> str | None:
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


def pytest_terminal_summary(terminalreporter):
    if lacking := missing():
        terminalreporter.write_line(f"NOT TESTED in a browser: {lacking}", red=True)


def pytest_collection_modifyitems(items):
    """A host's page is the same with dynamic memory and without: it is tested without."""
    here = Path(__file__).parent
    items[:] = [item for item in items if here not in item.path.parents or not ((setting := setting_of(item)) and setting.dynamic)]


@pytest.fixture(scope="session")
def browser():
    if lacking := missing():
        pytest.skip(lacking)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session", params=["classic", "vue"])
def renderer(request) -> str:
    """How the frontend draws nodes: on a canvas, or as elements."""
    return request.param


@pytest.fixture(scope="session")
def opened(browser, server, host, renderer):
    """ComfyUI, open."""
    if renderer == "vue" and (version := frontend(server.client)) < FIRST_VUE_NODES:
        pytest.skip(f"frontend {'.'.join(map(str, version))}: its Vue nodes are a preview that shows no element of any extension")
    with Page(browser, server.client, renderer, SCREENSHOTS / host.name) as page:
        page.open()
        yield page


@pytest.fixture
def page(opened, request):
    """ComfyUI with an empty graph. Whatever our files write to the console as an error or a warning fails the test."""
    opened.start(request.node.originalname.removeprefix("test_"))
    yield opened
    complaints = opened.complaints
    assert not complaints, complaints
