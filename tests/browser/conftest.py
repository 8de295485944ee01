"""A page of a real ComfyUI in a real Chromium. Hosts are those of tests/hosts.py; screenshots are left in test-output/browser."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # browser, page

from browser import Browser, missing
from page import Page

SCREENSHOTS = Path(__file__).parents[2] / "test-output" / "browser"
FIRST_VUE_NODES = (1, 28)  # of the frontend


def pytest_terminal_summary(terminalreporter):
    if lacking := missing():
        terminalreporter.write_line(f"NOT TESTED in a browser: {lacking}", red=True)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if lacking := missing():
        pytest.skip(lacking)
    with Browser(tmp_path_factory.mktemp("browser") / "profile") as browser:
        yield browser


@pytest.fixture(params=["classic", "vue"])
def renderer(request) -> str:
    """How the frontend draws nodes: on a canvas, or as elements."""
    return request.param


@pytest.fixture
def page(browser, server, host, renderer, request):
    """ComfyUI, freshly opened, with an empty graph. Whatever our files write to the console as an error fails the test."""
    frontend = server.client.get("/system_stats")["system"].get("required_frontend_version", "0.0")
    if renderer == "vue" and tuple(map(int, frontend.split(".")[:2])) < FIRST_VUE_NODES:
        pytest.skip(f"frontend {frontend}: its Vue nodes are a preview that shows no element of any extension")
    page = Page(browser, server.client, renderer, SCREENSHOTS / host.name, request.node.originalname.removeprefix("test_"))
    page.open()
    yield page
    errors = page.errors()
    browser.open("about:blank")  # nothing is drawn meanwhile
    assert not errors, errors
