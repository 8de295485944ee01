"""What a Python user is promised: the public names, lists of prompts, what a result holds, methods of one's own."""

import json
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from PIL import Image
from small_model import PROMPT, make_small_model

import migm_core
from migm_core import Pipeline, Result, Settings, diagnosis
from migm_core.canvas import Canvas
from migm_core.checkpoints import CheckpointError
from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.outputs import save_images
from migm_core.sampling.backbone import at_positions
from migm_core.sampling.guidance import guide
from migm_core.sampling.methods import MLCache, Shortcut, Vanilla
from migm_core.sampling.methods.method import Method
from migm_core.sampling.setting import setting

PROMPTS = ["red house", PROMPT, "a small green tree on the sand"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    small = make_small_model(tmp_path_factory.mktemp("model"))
    return Pipeline.load(small.folder, small.head, dtype="fp32", device="cpu")


def test_the_public_names():
    assert set(migm_core.__all__) == {"Pipeline", "Result", "Settings", "__version__"}
    assert all(getattr(migm_core, name) for name in migm_core.__all__)
    with pytest.raises(AttributeError, match="Pipelin"):
        migm_core.Pipelin  # noqa: B018


@pytest.mark.parametrize("method", ["vanilla", "shortcut", "ml-cache"])
def test_a_list_of_prompts_of_any_lengths_gives_what_each_gives_alone(pipeline, method):
    together = pipeline.generate(PROMPTS, seed=3, method=method)
    assert isinstance(together, Result) and len(together.images) == 3
    for image, prompt in enumerate(PROMPTS):
        alone = pipeline.generate(prompt, seed=3 + image, method=method)
        assert torch.equal(together.tokens[image], alone.tokens[0])
        assert together.images[image].tobytes() == alone.images[0].tobytes()


def test_a_list_of_prompts_takes_a_seed_each(pipeline):
    seeds = [11, 5, 11]
    together = pipeline.generate(PROMPTS, seeds=seeds)
    for image, (prompt, seed) in enumerate(zip(PROMPTS, seeds)):
        assert torch.equal(together.tokens[image], pipeline.generate(prompt, seed=seed).tokens[0])


@pytest.mark.parametrize(("prompt", "seeds"), [(PROMPT, [1]), (PROMPTS, [1, 2])])
def test_seeds_are_one_for_each_prompt_of_a_list(pipeline, prompt, seeds):
    with pytest.raises(ValueError, match=f"{len(seeds)} seeds"):
        pipeline.generate(prompt, seeds=seeds)


def test_an_empty_list_of_prompts_is_named(pipeline):
    with pytest.raises(ValueError, match="list of prompts is empty"):
        pipeline.generate([])


def test_images_with_different_numbers_of_masked_tokens_each_equal_their_single_run(pipeline):
    finished = pipeline.generate(PROMPT, batch=2, seed=1).canvas
    holes = torch.zeros(2, 4, 4, dtype=torch.bool)
    holes[0, :1], holes[1, 1:] = True, True
    masked = finished.masked_with(holes)
    together = pipeline.generate(PROMPT, canvas=masked, batch=2, seed=7)
    for image in range(2):
        alone = pipeline.generate(PROMPT, canvas=Canvas(masked.codes[image : image + 1], masked.masked[image : image + 1]), seed=7 + image)
        assert torch.equal(together.tokens[image], alone.tokens[0])
    assert torch.equal(together.tokens[~holes], finished.codes[~holes])


def test_prompts_of_one_length_share_their_passes(pipeline, monkeypatch):
    shapes = []
    features = Lumina.features
    monkeypatch.setattr(Lumina, "features", lambda self, sequence, *more: shapes.append(len(sequence.tokens)) or features(self, sequence, *more))
    pipeline.generate(["one", PROMPT, "two"], method="vanilla", guidance_scale=0.0, steps=2)
    assert shapes == [2, 2, 1, 1]


def test_the_log_likelihood_is_that_of_the_sampled_tokens(pipeline):
    result = pipeline.generate(PROMPTS[:2], record=True, seed=2)
    expected = torch.zeros(2)
    for image, steps in zip(range(2), result.recorded):  # of different lengths: a group each
        before = steps[0].masked
        for now, after in zip(steps, [*steps[1:], None]):
            stay = set(after.masked[0].tolist()) if after else set()
            for place, token in enumerate(before[0].tolist()):
                if token not in stay:
                    code = result.tokens[image].flatten()[token]
                    expected[image] += now.logits[0, place].log_softmax(-1)[code]
            before = after.masked if after else before
    torch.testing.assert_close(result.log_likelihood, expected, atol=1e-4, rtol=1e-4)


def test_recorded_features_and_logits_are_those_of_the_model(pipeline):
    result = pipeline.generate(PROMPT, method="vanilla", record=True)
    first = result.recorded[0][0]
    checkpoint = pipeline.checkpoint
    scale = result.settings.guidance_scale
    branches = checkpoint.family.branches(checkpoint, PROMPT, "", scale, 1)
    sequences = [checkpoint.base.sequence(branch, Canvas.empty(1, 4, 4)) for branch in branches]
    features = [at_positions(checkpoint.base.features(s), s.positions[first.masked]) for s in sequences]
    for found, expected in zip(first.features, features):
        torch.testing.assert_close(found, expected)
    cond, uncond = (checkpoint.base.code_logits(f) for f in features)
    torch.testing.assert_close(first.logits, (1 + scale) * cond - scale * uncond, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["vanilla", "shortcut", "ml-cache"])
def test_recorded_logits_are_those_of_the_recorded_features(pipeline, method):
    plain = pipeline.generate(PROMPT, method=method, seed=3)
    result = pipeline.generate(PROMPT, method=method, seed=3, record=True)
    assert plain.recorded is None and torch.equal(plain.tokens, result.tokens)
    base = pipeline.checkpoint.base
    for step in result.recorded[0]:
        assert [f.shape for f in step.features] == [(1, step.masked.shape[1], base.config.width)] * 2
        assert torch.equal(guide([base.code_logits(f, step.masked) for f in step.features], [3.0, -2.0]), step.logits)


def test_nothing_is_recorded_unless_asked_for(pipeline):
    assert pipeline.generate(PROMPT).recorded is None


@dataclass(frozen=True)
class EveryOther(Method):
    """The base at every other step, its features kept in between."""

    name: ClassVar[str] = "every-other"
    about: ClassVar[str] = "the base model at every other step"

    def kinds(self, steps: int) -> list[str]:
        return ["kept" if step % 2 else "full" for step in range(steps)]

    def start(self, backbone, sequences, mask_ratios):
        return EveryOtherRun(backbone, sequences)


class EveryOtherRun:
    def __init__(self, backbone, sequences):
        self.backbone, self.sequences, self.last = backbone, sequences, []

    def features(self, step):
        if step.index % 2 == 0:
            self.last = [self.backbone.features(s) for s in self.sequences]
        return [at_positions(last, s.positions[step.masked]) for last, s in zip(self.last, self.sequences)]


def test_a_method_of_ones_own_is_an_argument(pipeline):
    result = pipeline.generate(PROMPT, method=EveryOther(), steps=8)
    assert [kind for kind, _ in result.step_seconds] == ["full", "kept"] * 4
    assert result.settings.method == "every-other"


@pytest.mark.parametrize("kinds", [None, "full", ["full"], ["full"] * 9, [5] * 8], ids=str)
def test_a_method_that_gives_no_kind_for_each_step_is_named(pipeline, monkeypatch, kinds):
    monkeypatch.setattr(EveryOther, "kinds", lambda self, steps: kinds)
    with pytest.raises(ValueError, match="The method every-other gives no kind for each of 8 steps"):
        pipeline.generate(PROMPT, method=EveryOther(), steps=8)


OTHER_FEATURES = {
    "nothing": lambda right: None,
    "a tensor": torch.stack,
    "too few branches": lambda right: right[:1],
    "another width": lambda right: [each[..., :-1] for each in right],
    "fewer tokens": lambda right: [each[:, 1:] for each in right],
    "another rank": lambda right: [each[0] for each in right],
    "whole numbers": lambda right: [each.long() for each in right],
    "float64": lambda right: [each.double() for each in right],
    "no numbers": lambda right: [each.to("meta") for each in right],
    "text": lambda right: ["x", "y"],
}


@pytest.mark.parametrize("other", OTHER_FEATURES.values(), ids=OTHER_FEATURES)
def test_a_method_that_gives_other_features_than_it_should_is_named(pipeline, monkeypatch, other):
    right = EveryOtherRun.features
    monkeypatch.setattr(EveryOtherRun, "features", lambda self, step: other(right(self, step)))
    with pytest.raises(ValueError, match=r"The method every-other gives other features at step 0 than it should.*\[1, 16, 32\] on cpu"):
        pipeline.generate(PROMPT, method=EveryOther(), steps=8)


def test_numbers_of_a_method_of_ones_own_that_are_not_finite_are_no_heads_fault(pipeline, monkeypatch):
    right = EveryOtherRun.features
    monkeypatch.setattr(EveryOther, "kinds", lambda self, steps: ["shortcut" if step else "full" for step in range(steps)])
    monkeypatch.setattr(EveryOtherRun, "features", lambda self, step: [each * (float("nan") if step.index else 1) for each in right(self, step)])
    headless = Pipeline(pipeline.checkpoint, None)
    with pytest.raises(CheckpointError, match="base model gives values that are not finite, computed in float32. Its weights are finite"):
        headless.generate(PROMPT, method=EveryOther(), steps=4)


@pytest.mark.parametrize(("first", "kind"), [(1, "kept"), (4, "full"), (5, "kept"), (7, "kept")])
def test_numbers_that_stop_being_finite_on_the_way_end_the_run(pipeline, monkeypatch, first, kind):
    right = EveryOtherRun.features
    monkeypatch.setattr(EveryOtherRun, "features", lambda self, step: [each * (float("nan") if step.index >= first else 1) for each in right(self, step)])
    monkeypatch.setattr(diagnosis, "find_culprit", lambda kind, *of_run: f"A {kind} step is to blame.")
    with pytest.raises(CheckpointError, match=f"A {kind} step is to blame. Nothing was generated"):
        pipeline.generate(PROMPT, method=EveryOther(), steps=8)


def test_a_single_step_that_is_not_finite_is_no_result_in_any_group(pipeline, monkeypatch):
    right, runs = EveryOtherRun.features, []

    def features(self, step):
        runs.append(self) if self not in runs else None
        return [each * (float("nan") if step.index == 6 and len(runs) == 2 else 1) for each in right(self, step)]

    monkeypatch.setattr(EveryOtherRun, "features", features)
    with pytest.raises(CheckpointError, match="not finite"):
        pipeline.generate([PROMPT, "a red house"], method=EveryOther(), steps=8)
    assert len(runs) == 2


def test_a_damaged_head_of_a_method_is_named_whichever_head_the_pipeline_has(pipeline):
    damaged = deepcopy(pipeline.head)
    with torch.no_grad():
        damaged.adaLN_modulation.bias.fill_(float("nan"))
    for each in (pipeline, Pipeline(pipeline.checkpoint, None)):
        with pytest.raises(CheckpointError, match=r"The method's own head: the shortcut head's tensor adaLN_modulation.bias holds values that are not finite"):
            each.generate(PROMPT, method=Shortcut(head=damaged, budget=2), steps=4)
    with pytest.raises(CheckpointError, match=r"head.safetensors: the shortcut head's tensor adaLN_modulation.bias holds values that are not finite"):
        Pipeline(pipeline.checkpoint, damaged, "head.safetensors").generate(PROMPT, steps=4, budget=2)


@pytest.mark.parametrize(
    ("asked", "images", "message"),
    [
        (lambda branches: ([], None), 1, "branches of 0 images, but 1"),
        (lambda branches: ([[], []], None), 2, "Image 0 has no guidance branches"),
        (lambda branches: ([branches], None), 2, "branches of 1 images, but 2"),
        (lambda branches: ([replace(each, prompt=each.prompt.expand(3, -1)) for each in branches], None), 2, "branches of 3 images, but 2"),
        (lambda branches: (branches, [5]), 2, "1 seeds for 2 images"),
    ],
    ids=["none", "none of each", "too few lists", "too many prompts", "too few seeds"],
)
def test_branches_and_seeds_are_as_many_as_the_images(pipeline, asked, images, message):
    settings = pipeline.settings(batch=images, steps=2)
    branches, seeds = asked(pipeline.checkpoint.family.branches(pipeline.checkpoint, PROMPT, "", 1.0, images))
    with pytest.raises(ValueError, match=message):
        pipeline.run(branches, settings, seeds=seeds)


@pytest.mark.parametrize(("typo", "meant"), [("stesp", "steps"), ("temprature", "temperature"), ("budgets", "budget"), ("warm_up", "warmup")])
def test_a_typo_names_the_nearest_setting(pipeline, typo, meant):
    with pytest.raises(ValueError, match=f"'{typo}'.*'{meant}'"):
        pipeline.generate(PROMPT, **{typo: 4})


def test_a_method_takes_its_own_settings(pipeline):
    always = pipeline.generate(PROMPT, method="ml-cache", warmup=1.0)
    assert [kind for kind, _ in always.step_seconds].count("partial") == 0
    assert torch.equal(always.tokens, pipeline.generate(PROMPT, method="vanilla").tokens)


def test_settings_say_what_was_used_and_no_more(pipeline):
    vanilla, shortcut = (pipeline.generate(PROMPT, method=method).settings for method in ("vanilla", "shortcut"))
    assert isinstance(vanilla, Settings)
    assert "budget" not in vanilla.used() and shortcut.used()["budget"] == 3
    assert {"steps", "guidance_scale", "temperature", "width", "height", "seed", "batch", "method"} <= set(vanilla.used())


def test_an_images_settings_and_seed_can_be_run_again(pipeline):
    result = pipeline.generate(PROMPT, method=MLCache(interval=2), seed=3)
    used = result.settings.used()
    assert used["method"] == "ml-cache" and used["interval"] == 2 and "budget" not in used
    assert torch.equal(pipeline.generate(PROMPT, **used).tokens, result.tokens)


@dataclass(frozen=True)
class Late(Vanilla):
    """A method that nobody has registered, with a setting."""

    name = "late"
    first: int = setting(2, 0, 9, "a number")


def test_saved_images_tell_their_own_seeds_and_methods(pipeline, tmp_path):
    result = pipeline.generate(["one", "two"], seeds=[7, 3], method=Late())
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    save_images(result, paths, {"prompt": ["one", "two"]})
    said = [json.loads(Image.open(path).text["migm"]) for path in paths]
    assert [(each["prompt"], each["seed"], each["batch"], each["method"], each["first"]) for each in said] == [("one", 7, 1, "late", 2), ("two", 3, 1, "late", 2)]


@pytest.mark.parametrize("code", [-1, 32])
def test_a_canvas_with_codes_of_another_codebook_is_refused(pipeline, code):
    canvas = Canvas(torch.full((1, 4, 4), code), torch.zeros(1, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=f"code {code}, .*32 codes"):
        pipeline.generate(PROMPT, canvas=canvas)


@pytest.mark.parametrize("method", ["vanilla", "shortcut", "ml-cache"])
def test_streamed_blocks_give_the_same_tokens(tmp_path, pipeline, method):
    small = make_small_model(tmp_path)
    streamed = Pipeline.load(small.folder, small.head, dtype="fp32", device="cpu", stream=True)
    assert streamed.streamed.copies == 0
    assert torch.equal(streamed.generate(PROMPT, method=method).tokens, pipeline.generate(PROMPT, method=method).tokens)
    assert streamed.streamed.copies >= 2


def test_compiled_blocks_are_not_streamed(tmp_path):
    from migm_core.switches import Switches

    small = make_small_model(tmp_path)
    with pytest.raises(ValueError, match="torch.compile"):
        Pipeline.load(small.folder, device="cpu", stream=True, switches=Switches(compile=True))
