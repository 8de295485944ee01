"""Every method samples every task, and a shortcut head tells how far it was off."""

import math
from dataclasses import replace

import pytest
import torch
from task_pictures import SHORT, half

from migm_core.families.lumina_dimoo.rule import BELOW, LuminaRule
from migm_core.families.request import TaskRequest
from migm_core.sampling.guidance import guide
from migm_core.sampling.methods import METHODS, Shortcut
from migm_core.sampling.probe import FAIR, GOOD, Probed, compare, judge

SCALES = [("edit", (2.5, 4.0)), ("edit", (0.0, 4.0)), ("edit", (2.5, 0.0)), ("edit", (0.0, 0.0)), ("paint", (4.0,)), ("paint", (0.0,))]


def of_task(task: str, scales: tuple[float, ...]) -> dict:
    settings = dict(zip(("guidance_scale", "image_guidance_scale"), scales))
    return {"task": task, **settings, **({"mask": half()} if task == "paint" else {})}


@pytest.mark.parametrize(("task", "scales"), SCALES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_an_image_of_a_batch_is_its_single_run(painter, picture, method, task, scales):
    settings = {"method": method, **of_task(task, scales), **SHORT}
    batch = painter.generate("red house", images=picture, seed=5, batch=3, **settings)
    for index in range(3):
        single = painter.generate("red house", images=picture, seed=5 + index, **settings)
        assert torch.equal(single.tokens[0], batch.tokens[index])
        assert single.images[0].tobytes() == batch.images[index].tobytes()
    assert len({tuple(tokens.flatten().tolist()) for tokens in batch.tokens}) == 3


@pytest.mark.parametrize(("task", "scales"), SCALES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_scale_of_0_gives_what_a_branch_of_weight_0_does(painter, picture, method, task, scales):
    """Leaving the branch out saves its passes, and changes nothing."""
    checkpoint, family = painter.checkpoint, painter.checkpoint.family
    request = TaskRequest(task, "red house", pictures=picture, mask=half() if task == "paint" else None)
    inputs = family.task_inputs(checkpoint, request, lambda pixels: painter.encode(pixels).codes)
    every = family.task_branches(checkpoint, request, inputs, *(1.0,) * len(scales))
    assert len(every) == 1 + len(scales)
    every = [replace(branch, weight=weight) for branch, weight in zip(every, (1 + sum(scales), *(-scale for scale in scales)))]
    settings = {"method": method, **of_task(task, scales), **SHORT}
    left_out = painter.generate("red house", images=picture, seed=7, **settings)
    all_of_them = painter.sample(every, replace(left_out.settings, seed=7), inputs.canvas)
    assert torch.equal(left_out.tokens, all_of_them.tokens)


@pytest.mark.parametrize("task", ["edit", "paint"])
@pytest.mark.parametrize("method", METHODS)
def test_where_every_step_is_full_each_method_gives_vanillas_tokens(painter, picture, method, task):
    whole = {"shortcut": {"budget": 6}, "ml-cache": {"warmup": 1.0}}.get(method, {})
    assert {*METHODS[method].build(whole).kinds(6)} == {"full"}
    vanilla, other = (painter.generate("red house", images=picture, steps=6, **of_task(task, ()), **each) for each in ({"method": "vanilla"}, {"method": method, **whole}))
    assert torch.equal(vanilla.tokens, other.tokens)


@pytest.mark.parametrize("task", ["edit", "paint"])
def test_a_shortcut_run_says_how_far_the_head_was_off(painter, picture, task):
    more = {"mask": half()} if task == "paint" else {}
    result = painter.generate("red house", task=task, images=picture, steps=8, budget=4, **more)
    assert [probed.step for probed in result.probed] == result.full_steps[1:]
    assert result.head_fits == "poor", "a head with random weights"
    assert "does not predict this task well" in result.notes[-1] and result.head_report in result.notes[-1]
    assert result.head_report.startswith("poor: off by ") and "nats" in result.head_report
    silent = painter.generate("red house", task=task, images=picture, steps=8, budget=4, probe=False, **more)
    assert silent.probed == () and silent.head_fits is None and silent.head_report is None
    assert torch.equal(silent.tokens, result.tokens), "measuring changes nothing"


def test_a_head_that_predicts_no_motion_is_as_good_as_standing_still(painter, picture, still_head):
    method = Shortcut(still_head, budget=5)
    result = painter.generate("red house", task="edit", images=picture, steps=5, method=method)
    assert len(result.probed) == 4
    for probed in result.probed:
        assert probed.kl == pytest.approx(probed.still_kl, rel=1e-4) and probed.kl > FAIR
    assert result.head_fits == "poor"


@pytest.fixture
def still_head(painter):
    import copy

    head = copy.deepcopy(painter.head)
    for parameter in head.proj_out.parameters():
        parameter.data.zero_()
    return head


def test_what_the_probe_measures(painter, picture):
    base = painter.checkpoint.base
    true, guess = torch.randn(2, 2, 1, 3, base.config.width, generator=torch.Generator().manual_seed(0)).unbind(1)
    positions = [torch.arange(3)[None]] * 2
    cosine, kl = compare(base, list(true), list(guess), positions, [3.0, -2.0])
    with torch.no_grad():
        p, q = (guide([base.code_logits(f) for f in features], [3.0, -2.0]).log_softmax(-1) for features in (true, guess))
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum") / 3
    assert kl.item() == pytest.approx(expected.item(), rel=1e-4)
    assert cosine.item() == pytest.approx(torch.cosine_similarity(true, guess, dim=-1).mean().item(), abs=1e-5)
    cosine, kl = compare(base, list(true), list(true), positions, [3.0, -2.0])
    assert (cosine.item(), kl.item()) == (pytest.approx(1), pytest.approx(0, abs=1e-6))


@pytest.mark.parametrize(
    ("kl", "still", "word"),
    [(GOOD, 1.0, "good"), (GOOD, GOOD / 2, "good"), (FAIR, 1.0, "fair"), (FAIR, FAIR / 2, "fair"), (FAIR * 1.1, 9.0, "poor"), (math.nan, 1.0, "poor")],
)
def test_the_word_for_a_head(kl, still, word):
    assert judge([Probed(1, 0.9, kl, still), Probed(2, 0.9, kl, still)]) == word
    assert judge([]) is None


def test_below_the_cut_off_a_batch_is_sampled_one_by_one(painter, picture):
    settings = {"remasking": BELOW, "steps": 40, "temperature": 1.0, "method": "vanilla"}
    batch = painter.generate("red house", task="edit", images=picture, batch=2, width=32, height=32, **settings)
    single = painter.generate("red house", task="edit", images=picture, seed=1, width=32, height=32, **settings)
    assert torch.equal(batch.tokens[1], single.tokens[0])
    assert not torch.equal(single.tokens, painter.generate("red house", task="edit", images=picture, seed=1, width=32, height=32, **settings | {"remasking": "exact"}).tokens)


def test_below_the_cut_off_ties_are_unmasked_together():
    confidence = torch.tensor([[0.1, 0.5, 0.5, 0.5, 0.9]])
    assert LuminaRule(remasking=BELOW).stay(confidence, 3) == 1
    assert LuminaRule().stay(confidence, 3) == 3
    assert LuminaRule(remasking=BELOW).stay(confidence, 9) == 4, "one is always unmasked"
    with pytest.raises(ValueError, match="one by one"):
        LuminaRule(remasking=BELOW).stay(torch.cat([confidence, confidence.flip(1).cumsum(1)]), 3)
