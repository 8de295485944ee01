"""MaskGIT's nodes in the page, with the tiny model of the tests' data."""

import time

import pytest
from hosts import MASKGIT, MASKGIT_HEAD
from maskgit_workflow import class_to_image

pytestmark = pytest.mark.flaky(reruns=1, only_rerun=["TimeoutError"])  # as in test_page


def test_a_class_is_chosen_planned_generated_and_reported(page):
    page.load(class_to_image("tiny", MASKGIT, MASKGIT_HEAD, "goldfish", "3, 7"))
    page.wait_for_words("times as fast")
    kinds = page.kinds()
    assert (kinds.count("full"), kinds.count("shortcut")) == (7, 8)
    page.wait_for_timeline_in_its_node()
    page.edit(budget=5, cfg=1.5, seed=time.time_ns() % 10**12)
    page.wait("kinds().filter((kind) => kind === 'full').length === 5")
    page.press("Use the model's settings")
    page.wait("kinds().filter((kind) => kind === 'full').length === 8")
    assert page.value("cfg") == 2.8
    page.edit(method="ml-cache", interval=2)
    page.wait("kinds().includes('partial')")
    assert page.run("return [widget('budget').disabled, widget('interval').disabled].map(Boolean)") == [True, False]
    page.edit(method="shortcut")
    page.wait("kinds().includes('shortcut') && !widget('budget').disabled && widget('interval').disabled")
    page.press_run()
    page.wait_for_end()
    page.wait("app.canvas.graph.nodes.some((n) => n.type === 'SaveImage' && app.nodeOutputs[n.id]?.images?.length === 2)", what="two images")
    page.screenshot("done")
