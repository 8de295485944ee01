"""The sampling loop: what a seed, a canvas, a method and a callback do to a run."""

from dataclasses import dataclass

import pytest
import torch
from small_model import PROMPT, EveryBranch

from migm_core.canvas import Canvas
from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.head import ShortcutHead
from migm_core.families.lumina_dimoo.rule import LuminaRule, keep_masked
from migm_core.families.lumina_dimoo.tasks import text_guidance
from migm_core.sampling import loop
from migm_core.sampling.loop import least_confident, sample
from migm_core.sampling.methods import MLCache, Shortcut, Vanilla
from migm_core.sampling.methods.shortcut import ShortcutRun
from migm_core.sampling.noise import SeededNoise
from migm_core.sampling.schedules import full_steps, step_kinds
from migm_core.sampling.timing import speed_up

METHODS = ("vanilla", "shortcut", "ml-cache")


def codes(pipeline, prompt=PROMPT, negative="", **asked) -> list:
    return pipeline.generate(prompt, negative, **asked).canvas.codes.tolist()


def run(pipeline, method, *, canvas=None, steps=8, guidance_scale=2.0, temperature=1.0, seed=0, callback=None) -> Canvas:
    """A run with a method of one's own."""
    prompts = pipeline.checkpoint.prompts
    branches = text_guidance(prompts.prompt(PROMPT), prompts.unconditional(), guidance_scale)
    canvas = Canvas.empty(1, 4, 4) if canvas is None else canvas
    generators = [torch.Generator().manual_seed(seed + image) for image in range(canvas.shape[0])]
    base = pipeline.checkpoint.base
    return sample(base, branches, canvas, method, steps=steps, rule=LuminaRule(temperature), noise=SeededNoise(generators), callback=callback)


# Seeds.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_image_i_of_a_batch_is_the_single_run_of_its_seed(pipeline, method, temperature):
    together = codes(pipeline, method=method, temperature=temperature, seed=5, batch=3)
    alone = [codes(pipeline, method=method, temperature=temperature, seed=5 + image)[0] for image in range(3)]
    assert together == alone


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_repeats_itself_and_another_does_not(pipeline, method):
    assert codes(pipeline, method=method, seed=3) == codes(pipeline, method=method, seed=3)
    assert codes(pipeline, method=method, seed=3) != codes(pipeline, method=method, seed=4)


def test_a_run_ignores_and_keeps_the_global_random_state(pipeline):
    torch.manual_seed(0)
    first, state = codes(pipeline, seed=3), torch.get_rng_state()
    assert torch.equal(state, torch.Generator().manual_seed(0).get_state())
    torch.manual_seed(1)
    assert codes(pipeline, seed=3) == first


def test_temperature_0_takes_the_likeliest_in_one_step_whatever_the_seed(pipeline):
    likeliest = codes(pipeline, method="vanilla", steps=1, temperature=0.0, seed=1)
    assert codes(pipeline, method="vanilla", steps=1, temperature=0.0, seed=2) == likeliest
    assert codes(pipeline, method="vanilla", steps=1, temperature=1.0, seed=1) != likeliest


def test_the_prompt_matters(pipeline):
    assert codes(pipeline, "a small blue tent", temperature=0.0) != codes(pipeline, "two", temperature=0.0)


@pytest.mark.parametrize("method", METHODS)
def test_logits_made_part_by_part_sample_the_same(pipeline, monkeypatch, method):
    whole = codes(pipeline, method=method, seed=3, batch=2)
    monkeypatch.setattr(loop, "LOGITS_AT_ONCE", 3 * 2 * 32)  # three of sixteen tokens
    assert codes(pipeline, method=method, seed=3, batch=2) == whole


# Guidance.


@pytest.mark.parametrize("method", ["vanilla", "shortcut"])
def test_guidance_0_runs_one_branch(pipeline, monkeypatch, method):
    calls = []
    features = Lumina.features
    monkeypatch.setattr(Lumina, "features", lambda *args, **kw: calls.append(1) or features(*args, **kw))
    alone = codes(pipeline, method=method, guidance_scale=0.0)
    full = {"vanilla": 8, "shortcut": 3}[method]
    assert len(calls) == full
    assert codes(pipeline, method=method, guidance_scale=2.0) != alone
    assert len(calls) == full + 2 * full


@pytest.mark.parametrize("method", ["vanilla", "shortcut"])
def test_guidance_0_equals_two_branches_of_which_one_weighs_nothing(pipeline, method):
    prompts = pipeline.checkpoint.prompts
    nearly_none = text_guidance(prompts.prompt(PROMPT), prompts.unconditional(), 1e-30)
    assert len(nearly_none) == 2
    settings = pipeline.settings(method=method, guidance_scale=0.0)
    assert pipeline.run(nearly_none, settings).canvas.codes.tolist() == codes(pipeline, method=method, guidance_scale=0.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_negative_prompt_changes_the_run_where_there_is_guidance(pipeline, method):
    assert codes(pipeline, negative="green duck", method=method) != codes(pipeline, method=method)
    assert codes(pipeline, negative="green duck", method=method, guidance_scale=0.0) == codes(pipeline, method=method, guidance_scale=0.0)


@dataclass(frozen=True)
class LateGuidance(LuminaRule):
    """Guidance from the third step on."""

    def ramp(self, step, steps):
        return 0 if step < 2 else 1


@pytest.mark.parametrize("make", [lambda head: Vanilla(), lambda head: Shortcut(head, 3), lambda head: MLCache()])
def test_vanilla_runs_no_branch_that_does_not_count(pipeline, monkeypatch, make):
    prompts, method = pipeline.checkpoint.prompts, make(pipeline.head)
    passes = []
    features = Lumina.features
    monkeypatch.setattr(Lumina, "features", lambda self, *args: passes.append(1) or features(self, *args))

    def tokens(guidance_scale, rule, method=method, steps=8):
        passes.clear()
        branches, seen = text_guidance(prompts.prompt(PROMPT), prompts.unconditional(), guidance_scale), []
        noise = SeededNoise([torch.Generator().manual_seed(2)])
        done = sample(pipeline.checkpoint.base, branches, Canvas.empty(1, 4, 4), method, rule, steps=steps, noise=noise, callback=seen.append)
        return done.codes, [report.canvas.codes[~report.canvas.masked] for report in seen]

    done, seen = tokens(2.0, LateGuidance())
    if type(method) is Vanilla:
        assert len(passes) == 2 + 6 * 2
        assert torch.equal(done, tokens(2.0, LateGuidance(), EveryBranch())[0]) and len(passes) == 16
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(seen[:2], tokens(0.0, LuminaRule())[1][:2]))
    assert not torch.equal(done, tokens(2.0, LuminaRule())[0])


# Steps and canvases.


@pytest.mark.parametrize("method", METHODS)
def test_more_steps_than_tokens(pipeline, method):
    """One token stays masked until the last step; steps in between unmask nothing, so that the head meets no new token."""
    reports = []
    canvas = Canvas.empty(1, 2, 2)
    result = pipeline.generate(PROMPT, canvas=canvas, method=method, steps=16, budget=4, callback=reports.append)
    assert not result.canvas.masked.any()
    left = [int(report.canvas.masked.sum()) for report in reports]
    assert left == keep_masked(4, 16) == [3] * 7 + [2] * 3 + [1] * 5 + [0]
    assert [report.unmasked for report in reports] == [before - after for before, after in zip([4, *left], left)]
    if method == "shortcut":
        assert set(result.full_steps) <= set(full_steps(16, 4))


class NothingSkipped:
    """A method none of whose steps is skipped."""

    def __init__(self, method):
        self.start = method.start

    def kinds(self, steps):
        return ["partial"] * steps


@pytest.mark.parametrize("make", [lambda head: Vanilla(), lambda head: Shortcut(head, 5), lambda head: Shortcut(head, 16), lambda head: MLCache()])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_skipped_changes_no_token(pipeline, make, temperature):
    method = make(pipeline.head)
    known = run(pipeline, Vanilla(), seed=9)
    hole = torch.zeros(2, 4, 4, dtype=torch.bool)
    hole[0, 1:3, 1:4] = hole[1, 2:, 1:4] = True
    for canvas in (Canvas.empty(2, 4, 4), known.repeat(2).masked_with(hole)):
        for steps in (16, 41):
            reports = []
            ours = run(pipeline, method, canvas=canvas, steps=steps, temperature=temperature, callback=reports.append)
            every = run(pipeline, NothingSkipped(method), canvas=canvas, steps=steps, temperature=temperature)
            assert torch.equal(ours.codes, every.codes)
            assert "skipped" in {report.kind for report in reports}


@pytest.mark.parametrize("method", ["vanilla", "shortcut"])
def test_a_skipped_step_runs_no_model(pipeline, monkeypatch, method):
    calls = []
    for model, name in ((Lumina, "features"), (ShortcutHead, "step")):
        original = getattr(model, name)
        monkeypatch.setattr(model, name, lambda *args, original=original, name=name: calls.append(name) or original(*args))
    reports = []
    result = pipeline.generate(PROMPT, width=16, height=16, guidance_scale=0.0, method=method, steps=16, budget=4, callback=reports.append)
    kinds = [report.kind for report in reports]
    assert len(kinds) == 16 and kinds.count("skipped") >= 4
    assert calls.count("features") == kinds.count("full") == len(result.full_steps)
    assert calls.count("step") == kinds.count("shortcut")
    assert sum(report.unmasked > 0 for report in reports) == result.vanilla_passes == 4
    if method == "vanilla":
        assert kinds.count("full") == 4


@pytest.mark.parametrize("canvas", [Canvas.empty(1, 2, 2), Canvas.empty(2, 1, 4)], ids=["single", "batch"])
def test_the_first_step_after_skipped_ones_reads_the_tokens_from_before_them(pipeline, monkeypatch, canvas):
    right, seen, reports = ShortcutRun._predict, {}, []
    monkeypatch.setattr(ShortcutRun, "_predict", lambda self, branch, step: seen.update({step.index: step.new}) or right(self, branch, step))
    run(pipeline, Shortcut(pipeline.head, 4, probe=True), canvas=canvas, steps=16, callback=reports.append)
    kinds = [report.kind for report in reports]
    probed = [step for step, kind in enumerate(kinds) if kind == "full" and kinds[step - 1] == "skipped"]
    assert probed and all(reports[step].measured for step in probed)
    for step in probed:
        ran = max(earlier for earlier in range(step) if kinds[earlier] != "skipped")
        before = reports[ran - 1].canvas.masked if ran else canvas.masked
        unmasked = (before & ~reports[ran].canvas.masked).flatten(1).nonzero()[:, 1].view(len(before), -1)
        assert unmasked.shape[1] == reports[ran].unmasked and torch.equal(seen[step], unmasked)
        assert [report.unmasked for report in reports[ran + 1 : step]] == [0] * (step - ran - 1)


def test_which_steps_are_skipped():
    assert keep_masked(4, 16) == [3] * 7 + [2] * 3 + [1] * 5 + [0]  # steps 0, 7, 10 and 15 unmask

    def planned(kinds, tokens):
        return step_kinds(kinds, keep_masked(tokens, len(kinds)), tokens)

    full = planned(["full"] * 16, 4)
    assert [step for step, kind in enumerate(full) if kind == "full"] == [0, 7, 10, 15]
    # The head goes on from a full step to the next step that unmasks, and no further.
    budget = ["full" if step in (0, 4, 8, 12) else "shortcut" for step in range(16)]
    skipped = [1, 2, 3, 11]
    assert planned(budget, 4) == ["skipped" if step in skipped else kind for step, kind in enumerate(budget)]
    assert planned(budget, 4096) == budget  # each step unmasks
    assert planned(["partial"] * 16, 4) == ["partial"] * 16  # the last step unmasks, and goes on from all before it


def test_what_probing_took_is_work_of_the_run_and_not_of_vanilla():
    # A full step takes 1 s, one of the head 0.25; probed, the full ones but the first take both.
    steps = [("full", 1.0), ("shortcut", 0.25), ("full", 1.25), ("shortcut", 0.25), ("full", 1.25), ("skipped", 0.001)]
    assert speed_up(steps, 6, probed=True) == 6 * 1.0 / (3 * 1.25 + 2 * 0.25 + 0.001)
    assert speed_up(steps, 6) == 6 * 1.25 / (3 * 1.25 + 2 * 0.25 + 0.001)
    assert speed_up(steps[:1], 1, probed=True) == 1 and speed_up(steps[1:2], 1, probed=True) is None
    assert speed_up([("full", 0.2), ("shortcut", 0.3)], 2, probed=True) is None  # no vanilla step takes less than nothing


def test_the_speed_up_is_against_a_vanilla_that_skips_too():
    steps = [("full", 2.0), ("shortcut", 0.5), ("shortcut", 0.5), ("skipped", 0.0), ("full", 2.0)]
    assert speed_up(steps, passes=4) == 4 * 2.0 / 5.0
    assert speed_up([], passes=0) is None


@pytest.mark.parametrize("method", METHODS)
def test_one_token(pipeline, method):
    result = pipeline.generate(PROMPT, width=8, height=8, method=method, steps=4, budget=2)
    assert result.canvas.shape == (1, 1, 1) and result.images[0].size == (8, 8)


def test_height_and_width_are_not_mixed_up(pipeline):
    result = pipeline.generate(PROMPT, width=48, height=16)
    assert result.canvas.shape == (1, 2, 6) and result.images[0].size == (48, 16)


@pytest.mark.parametrize("method", METHODS)
def test_inpainting_keeps_the_known_tokens(pipeline, method):
    first = pipeline.generate(PROMPT, seed=1).canvas
    hole = torch.zeros(4, 4, dtype=torch.bool)
    hole[1:3, 1:4] = True
    inpainted = pipeline.generate("a small green tree on the sand", canvas=first.masked_with(hole), method=method, seed=2).canvas
    assert torch.equal(inpainted.codes[:, ~hole], first.codes[:, ~hole])
    assert not torch.equal(inpainted.codes[:, hole], first.codes[:, hole])
    assert not inpainted.masked.any()


def test_the_codes_of_masked_tokens_do_not_matter(pipeline):
    empty = Canvas.empty(1, 4, 4)
    assert codes(pipeline, canvas=Canvas(empty.codes + 7, empty.masked)) == codes(pipeline, canvas=empty) == codes(pipeline)


def test_known_tokens_are_seen(pipeline):
    def canvas(code):
        masked = torch.ones(1, 4, 4, dtype=torch.bool)
        masked[:, :2] = False
        return Canvas(torch.full((1, 4, 4), code), masked)

    below = [torch.tensor(codes(pipeline, canvas=canvas(code), temperature=0.0))[:, 2:] for code in (3, 17)]
    assert not torch.equal(*below)


@pytest.mark.parametrize("method", METHODS)
def test_a_canvas_with_nothing_masked_returns_unchanged(pipeline, method):
    first = pipeline.generate(PROMPT).canvas
    reports = []
    result = pipeline.generate("a small green duck", canvas=first, method=method, callback=reports.append)
    assert torch.equal(result.canvas.codes, first.codes)
    assert reports == [] and result.full_steps == [] and result.speed_up is None
    assert len(result.images) == 1


def test_the_loop_refuses_a_batch_with_unequal_numbers_of_masked_tokens(pipeline):
    masked = torch.ones(2, 4, 4, dtype=torch.bool)
    masked[1, 0, 0] = False
    canvas = Canvas(torch.zeros(2, 4, 4, dtype=torch.int64), masked)
    with pytest.raises(ValueError, match=r"\[16, 15\] masked tokens"):
        run(pipeline, Vanilla(), canvas=canvas)


def test_a_batch_with_holes_of_one_size_in_different_places(pipeline):
    first = pipeline.generate(PROMPT).canvas
    holes = torch.zeros(2, 4, 4, dtype=torch.bool)
    holes[0, :2], holes[1, 2:] = True, True
    method = Shortcut(pipeline.head, 3)
    together = run(pipeline, method, canvas=first.repeat(2).masked_with(holes), seed=4).codes
    for image in range(2):
        alone = run(pipeline, method, canvas=first.masked_with(holes[image]), seed=4 + image).codes
        assert torch.equal(together[image], alone[0])


def test_a_canvas_of_two_images_is_refused_by_the_pipeline(pipeline):
    with pytest.raises(ValueError, match="2 images"):
        pipeline.generate(PROMPT, canvas=Canvas.empty(2, 4, 4))


# Callbacks.


@pytest.mark.parametrize("method", METHODS)
def test_a_callback_sees_every_step(pipeline, method):
    reports = []
    result = pipeline.generate(PROMPT, method=method, callback=reports.append)
    assert [(report.step, report.steps) for report in reports] == [(step, 8) for step in range(8)]
    full = {"vanilla": range(8), "shortcut": full_steps(8, 3), "ml-cache": [0, 1, 2, 7]}[method]
    between = {"vanilla": None, "shortcut": "shortcut", "ml-cache": "partial"}[method]
    kinds = ["full" if step in full else between for step in range(8)]
    assert [report.kind for report in reports] == [kind for kind, _ in result.step_seconds] == kinds
    assert result.full_steps == list(full)
    assert set(result.median_step_seconds) == set(kinds)

    assert [int(report.canvas.masked.sum()) for report in reports] == keep_masked(16, 8)
    for earlier, later in zip(reports, reports[1:]):
        known = ~earlier.canvas.masked
        assert not later.canvas.masked[known].any()  # once unmasked, a token stays
        assert torch.equal(later.canvas.codes[known], earlier.canvas.codes[known])
    assert torch.equal(reports[-1].canvas.codes, result.canvas.codes)
    assert all(bool(report.finite) for report in reports)


def test_what_a_callback_does_to_its_report_does_not_reach_the_run(pipeline):
    def scribble(report):
        report.canvas.codes.fill_(0)
        report.canvas.masked.fill_(True)

    assert codes(pipeline, callback=scribble) == codes(pipeline)


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [0, 3])
def test_raising_from_a_callback_ends_the_run_and_leaves_the_model_as_it_was(pipeline, method, step):
    def state():
        models = (pipeline.checkpoint.base, pipeline.head, pipeline.checkpoint.image_tokenizer)
        return [tensor.clone() for model in models for tensor in model.state_dict().values()]

    seen = []

    def stop(report):
        seen.append(report.step)
        if report.step == step:
            raise Stop

    expected, before = codes(pipeline, method=method), state()
    with pytest.raises(Stop):
        pipeline.generate(PROMPT, method=method, callback=stop)
    assert seen == list(range(step + 1))
    assert all(torch.equal(a, b) for a, b in zip(before, state()))
    assert codes(pipeline, method=method) == expected


# Methods against each other.


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_shortcut_with_a_budget_of_all_steps_is_vanilla(pipeline, temperature):
    full = codes(pipeline, method="shortcut", budget=8, temperature=temperature)
    assert full == codes(pipeline, method="vanilla", temperature=temperature)
    assert codes(pipeline, method="shortcut", budget=2, temperature=temperature) != full


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ml_cache_that_recomputes_everything_is_vanilla(pipeline, temperature):
    vanilla = run(pipeline, Vanilla(), temperature=temperature).codes
    assert torch.equal(run(pipeline, MLCache(ratio=0.0), temperature=temperature).codes, vanilla)
    assert torch.equal(run(pipeline, MLCache(interval=1), temperature=temperature).codes, vanilla)
    assert torch.equal(run(pipeline, MLCache(warmup=1.0), temperature=temperature).codes, vanilla)
    assert not torch.equal(run(pipeline, MLCache(warmup=0.0, interval=100), temperature=temperature).codes, vanilla)


def test_the_head_sees_the_prompt_only_where_it_may(pipeline):
    seen = run(pipeline, Shortcut(pipeline.head, 2), temperature=0.0).codes
    assert not torch.equal(run(pipeline, Shortcut(pipeline.head, 2, prompt_visible=False), temperature=0.0).codes, seen)


@pytest.mark.parametrize("settings", [{"warmup": -0.1}, {"warmup": 1.1}, {"interval": 0}, {"ratio": 2.0}, {"ratio": float("nan")}])
def test_ml_cache_names_a_setting_out_of_range(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        MLCache(**settings)


@pytest.mark.parametrize(("steps", "budget"), [(8, 1), (8, 9), (8, 0), (1, 2)])
def test_no_budget_outside_2_to_steps(steps, budget):
    with pytest.raises(ValueError, match=f"budget is {budget}.*{steps}"):
        full_steps(steps, budget)


@pytest.mark.parametrize("steps", [2, 3, 8, 64, 100])
def test_every_budget_gives_that_many_steps_the_first_among_them(steps):
    for budget in range(2, steps + 1):
        chosen = full_steps(steps, budget)
        assert len(set(chosen)) == budget and chosen == sorted(chosen) and chosen[0] == 0 and chosen[-1] < steps


@pytest.mark.parametrize("tokens", [0, 1, 3, 16, 4096])
@pytest.mark.parametrize("steps", [1, 2, 8, 64])
def test_the_mask_schedule_falls_to_0_at_the_last_step(tokens, steps):
    counts = keep_masked(tokens, steps)
    assert len(counts) == steps and counts[-1] == 0
    assert counts == sorted(counts, reverse=True) and all(count <= tokens for count in counts)
    assert all(counts[:-1]) or not tokens


def test_the_least_confident_and_the_rest():
    confidence = torch.tensor([[0.3, -1.0, 2.0, 0.1, 5.0]])
    stay, go = least_confident(confidence, 2)
    assert stay.tolist() == [[1, 3]] and go.tolist() == [[0, 2, 4]]
    assert [part.shape[1] for part in least_confident(confidence, 0)] == [0, 5]
    assert [part.shape[1] for part in least_confident(confidence, 5)] == [5, 0]
