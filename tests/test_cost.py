"""The cost of a step, counted from sizes, is what torch counts when it runs; and no promise is above what it allows."""

import pytest
import torch
from nodes_without_host import room
from torch.utils.flop_counter import FlopCounterMode

from migm_core.config import LuminaConfig
from migm_core.models.lumina import Lumina
from migm_core.models.shortcut import ShortcutConfig, ShortcutHead
from migm_core.models.transformer import KeyValueCache
from migm_core.sampling.cost import features, largest_speed_up, prediction, step_costs
from migm_core.sampling.schedule import full_steps, step_kinds

META = torch.device("meta")
BASE = LuminaConfig(d_model=256, n_heads=4, n_kv_heads=2, n_layers=3, mlp_hidden_size=512)
PUBLISHED = LuminaConfig()
PUBLISHED_HEAD = ShortcutConfig(PUBLISHED.d_model, PUBLISHED.n_heads, PUBLISHED.mlp_hidden_size)


@torch.inference_mode()
def counted(part) -> int:
    with FlopCounterMode(display=False) as counter:
        part()
    return counter.get_total_flops() // 2


def kinds(budget: int, cells: int, steps: int = 64) -> list[str]:
    full = full_steps(steps, budget)
    return step_kinds(["full" if step in full else "shortcut" for step in range(steps)], cells)


def test_features_cost_what_torch_counts():
    model, positions = Lumina(BASE, device=META), 300
    tokens, rotary, cache = torch.zeros(1, positions, dtype=torch.int64, device=META), model.rotary(positions, META), KeyValueCache()
    assert features(BASE, positions, positions) == counted(lambda: model.features(tokens, rotary, cache))
    some = torch.zeros(1, 40, dtype=torch.int64, device=META)
    assert features(BASE, 40, positions) == counted(lambda: model.features_at(tokens, some, rotary, cache))


@pytest.mark.parametrize("variant", [{}, {"cross_attention": False}, {"bottleneck_ratio": 1}, {"n_blocks": 2}], ids=str)
def test_a_prediction_costs_what_torch_counts_but_for_the_new_tokens(variant):
    head, positions = ShortcutHead(ShortcutConfig(256, 4, 512, time_embedding=False, **variant), device=META), 300
    values, few = torch.zeros(1, positions, 256, device=META), torch.zeros(1, 1, dtype=torch.int64, device=META)
    seen = counted(lambda: head.step(values, values[:, :1], few, None, head.rotary(positions, META)))
    assert prediction(head.config, positions) <= seen <= 1.02 * prediction(head.config, positions)


def test_a_speed_up_is_below_the_share_of_full_steps_and_grows_as_the_budget_falls():
    bounds = [largest_speed_up(PUBLISHED, PUBLISHED_HEAD, kinds(budget, 4096), 64, 64) for budget in (14, 11, 9)]
    assert bounds == sorted(bounds)
    assert all(1 < bound < 64 / budget for bound, budget in zip(bounds, (14, 11, 9)))


def test_a_small_model_is_promised_less():
    cost = prediction(ShortcutConfig(160, 5, 480), 124) / features(LuminaConfig(d_model=160, n_heads=5, n_kv_heads=5, n_layers=16, mlp_hidden_size=480), 124, 124)
    assert cost > prediction(PUBLISHED_HEAD, 4212) / features(PUBLISHED, 4212, 4212)


def test_skipped_steps_cost_nothing_and_are_no_gain():
    vanilla = step_kinds(["full"] * 64, 64)
    assert "skipped" in vanilla
    assert [cost == 0 for cost in step_costs(BASE, None, vanilla, 8, 8)] == [kind == "skipped" for kind in vanilla]
    assert largest_speed_up(BASE, None, vanilla, 8, 8) == 1


# Measured


def test_a_promise_is_of_the_last_run_of_that_size_once_there_is_one():
    plan, times = room("plan"), room("step_times")
    steps = kinds(9, 64)
    size = times.Size(("some model",), 64, 1)
    assert plan.promise(steps, times.recall(size), BASE, 8, 8)["source"] == "sizes"
    times.remember(size, 1, {"full": 1.0})
    assert plan.promise(steps, times.recall(size), BASE, 8, 8)["source"] == "sizes"  # no shortcut step was timed
    times.remember(size, 1, {"shortcut": 0.5, "skipped": 0.0})
    passes = step_kinds(["full"] * 64, 64).count("full")
    expected = passes / (9 + 0.5 * steps.count("shortcut"))
    assert plan.promise(steps, times.recall(size), BASE, 8, 8) == {"value": pytest.approx(expected), "source": "measured"}
    times.remember(size, 4, {"full": 4.0, "shortcut": 1.0})
    assert times.recall(size)["full"] == 4.0 and times.recall(size, 1)["full"] == 1.0
    assert times.recall(size._replace(branches=2)) == {}


def test_a_run_that_is_not_accelerated_is_promised_nothing():
    assert room("plan").promise(step_kinds(["full"] * 8, 64), {}, BASE, 8, 8) is None
