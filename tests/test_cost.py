"""The cost of a step, counted from sizes, is what torch counts when it runs; and no promise is above what it allows."""

import pytest
import torch
from nodes_without_host import room, schemas
from torch.utils.flop_counter import FlopCounterMode

from migm_core.canvas import Canvas
from migm_core.families import family_named
from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.config import LuminaConfig
from migm_core.families.lumina_dimoo.head import ShortcutConfig, ShortcutHead
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.loading import BUNDLED
from migm_core.modules.transformer import KeyValueCache
from migm_core.sampling.backbone import Branch
from migm_core.sampling.cost import PROMPT, PlannedRun
from migm_core.sampling.methods import METHODS, Method, MLCache, Shortcut, Step, Vanilla
from migm_core.sampling.schedules import step_kinds
from migm_core.trained import Trained

META = torch.device("meta")
BASE = LuminaConfig(d_model=256, n_heads=4, n_kv_heads=2, n_layers=3, mlp_hidden_size=512)
PUBLISHED = LuminaConfig()
PUBLISHED_HEAD = ShortcutConfig(PUBLISHED.d_model, PUBLISHED.n_heads, PUBLISHED.mlp_hidden_size)
RULE = LuminaRule()


@torch.inference_mode()
def counted(part) -> int:
    with FlopCounterMode(display=False) as counter:
        part()
    return counter.get_total_flops() // 2


def planned(method: Method, tokens: int, steps: int = 64) -> list[str]:
    return step_kinds(method.kinds(steps), RULE.keep(tokens, tokens, steps), tokens)


def largest(config, head, method: Method, side: int, steps: int = 64) -> float:
    return PlannedRun(method, RULE, planned(method, side**2, steps), side, side).largest_speed_up(config, head)


def a_sequence(model: Lumina, prompt: int = 20, side: int = 16):
    return model.sequence(Branch(torch.zeros(prompt, dtype=torch.int64, device=META), 1.0), Canvas.empty(1, side, side, META))


def test_features_cost_what_torch_counts():
    model, cache = Lumina(BASE, device=META), KeyValueCache()
    sequence = a_sequence(model)
    assert sequence.length == BASE.sequence_length(20, 16, 16)
    assert BASE.pass_macs(sequence.length, sequence.length) == counted(lambda: model.features(sequence, cache))
    some = torch.zeros(1, 40, dtype=torch.int64, device=META)
    assert BASE.pass_macs(40, sequence.length) == counted(lambda: model.features_at(sequence, some, cache))


@pytest.mark.parametrize("variant", [{}, {"cross_attention": False}, {"bottleneck_ratio": 1}, {"n_blocks": 2}], ids=str)
def test_a_prediction_costs_what_torch_counts_but_for_the_new_tokens(variant):
    head, positions = ShortcutHead(ShortcutConfig(256, 4, 512, time_embedding=False, **variant), device=META), 300
    values, few = torch.zeros(1, positions, 256, device=META), torch.zeros(1, 1, dtype=torch.int64, device=META)
    seen = counted(lambda: head.step(values, values[:, :1], few, None, head.tables(positions, META)))
    assert head.config.step_macs(positions) <= seen <= 1.02 * head.config.step_macs(positions)


@pytest.mark.parametrize("variant", [{}, {"cross_attention": False}, {"bottleneck_ratio": 1}, {"n_blocks": 2}], ids=str)
def test_a_prediction_that_reads_pictures_costs_what_torch_counts(variant):
    head, positions, read = ShortcutHead(ShortcutConfig(256, 4, 512, time_embedding=False, **variant), device=META), 300, 120
    values, many = torch.zeros(1, positions, 256, device=META), torch.zeros(1, read, dtype=torch.int64, device=META)
    assert head.config.step_macs(positions, read) == counted(lambda: head.step(values, values[:, :read], many, None, head.tables(positions, META)))


def test_a_partial_step_of_ml_cache_costs_what_torch_counts():
    model, method = Lumina(BASE, device=META), MLCache(warmup=0.0, interval=8, ratio=0.9)
    sequence = a_sequence(model)
    run = method.start(model, [sequence], [1.0] * 8)
    masked = torch.zeros(1, 5, dtype=torch.int64, device=META)
    run.features(Step(0, masked, masked[:, :0]))
    assert method.kinds(8)[1] == "partial"
    assert method.step_macs("partial", BASE, None, sequence.length) == counted(lambda: run.features(Step(1, masked, masked[:, :0])))


@pytest.mark.parametrize("method", METHODS.values())
def test_every_method_says_what_each_kind_of_its_steps_costs(method):
    kinds = method().kinds(64)
    costs = PlannedRun(method(), RULE, kinds, 64, 64).costs(PUBLISHED, PUBLISHED_HEAD)
    full = max(costs)
    assert all(0 < cost <= full for cost in costs)
    assert [cost for kind, cost in zip(kinds, costs) if kind == "full"] == sorted((c for k, c in zip(kinds, costs) if k == "full"), reverse=True)


def test_a_speed_up_is_below_the_share_of_full_steps_and_grows_as_the_budget_falls():
    bounds = [largest(PUBLISHED, PUBLISHED_HEAD, Shortcut(budget=budget), 64) for budget in (14, 11, 9)]
    assert bounds == sorted(bounds)
    assert all(1 < bound < 64 / budget for bound, budget in zip(bounds, (14, 11, 9)))


def test_a_small_model_is_promised_less():
    small = LuminaConfig(d_model=160, n_heads=5, n_kv_heads=5, n_layers=16, mlp_hidden_size=480)
    cost = ShortcutConfig(160, 5, 480).step_macs(124) / small.pass_macs(124, 124)
    assert cost > PUBLISHED_HEAD.step_macs(4212) / PUBLISHED.pass_macs(4212, 4212)


def test_skipped_steps_cost_nothing_and_are_no_gain():
    kinds = planned(Vanilla(), 64)
    assert "skipped" in kinds
    assert [cost == 0 for cost in PlannedRun(Vanilla(), RULE, kinds, 8, 8).costs(BASE, None)] == [kind == "skipped" for kind in kinds]
    assert largest(BASE, None, Vanilla(), 8) == 1


def test_leaving_the_picture_less_branch_out_saves_up_to_a_fifth_as_its_input_says():
    """That branch is the shortest: it has none of the pictures' tokens."""
    family = family_named("lumina-dimoo")

    def cost(task, image_scale: float) -> int:
        sizes = family.task_sizes(task.name, [(512, 512)] * len(task.pictures), Trained(), 16, 2.5, image_scale)
        lengths = [PUBLISHED.sequence_length(PROMPT + tokens, sizes.size[1] // 16, sizes.size[0] // 16) for tokens in sizes.branches]
        return sum(PUBLISHED.pass_macs(length, length) for length in lengths)

    saved = [1 - cost(task, 0) / cost(task, 4) for task in family.tasks.values() if task.guides_by_pictures]
    assert 0.1 < min(saved) <= max(saved) == pytest.approx(0.2, abs=0.01)
    (image_cfg,) = [each for each in schemas()["MIGMEditImage"].inputs if each.id == "image_cfg"]
    assert image_cfg.tooltip.endswith("0 saves up to a fifth of the work.")


# Measured


def test_a_promise_is_of_the_last_run_of_that_size_once_there_is_one():
    plan, times = room("plan"), room("step_times")
    family = plan.outline(BUNDLED["demo"]).family
    method = Shortcut(budget=9)
    kinds = planned(method, 64)
    size = times.Size(("some model",), 64, 1)

    def promise():
        return plan.promise(PlannedRun(method, RULE, kinds, 8, 8), times.recall(size), family, BASE)

    assert promise()["source"] == "sizes"
    times.remember(size, 1, {"full": 1.0})
    assert promise()["source"] == "sizes"  # no shortcut step was timed
    times.remember(size, 1, {"shortcut": 0.5, "skipped": 0.0})
    passes = planned(Vanilla(), 64).count("full")
    expected = passes / (9 + 0.5 * kinds.count("shortcut"))
    assert promise() == {"value": pytest.approx(expected), "source": "measured"}
    times.remember(size, 4, {"full": 4.0, "shortcut": 1.0})
    assert times.recall(size)["full"] == 4.0 and times.recall(size, 1)["full"] == 1.0
    assert times.recall(size._replace(branches=2)) == {}


def test_a_run_that_is_not_accelerated_is_promised_nothing():
    plan, run = room("plan"), PlannedRun(Vanilla(), RULE, planned(Vanilla(), 64, 8), 8, 8)
    assert plan.promise(run, {}, plan.outline(BUNDLED["demo"]).family, BASE) is None
