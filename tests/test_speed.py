"""The times of steps at published sizes: what is run, what is counted, and how layers that are not built are added."""

from dataclasses import replace

import pytest
import torch
from small_model import small_config

from migm_core.bench import speed
from migm_core.families import FAMILIES, family_named
from migm_core.sampling.cost import largest_speed_up, step_costs
from migm_core.sampling.methods import METHODS

SIDE, STEPS, BUDGET = 4, 8, 3


@pytest.fixture
def lumina():
    family, config = family_named("lumina-dimoo"), small_config(n_layers=6)
    torch.manual_seed(0)
    return family, config, speed.filled(family.backbone(replace(config, n_layers=2))), speed.filled(family.new_head(config, 2))


def measure(parts, batch=2, **changed):
    return speed.measure(*parts, batch, **{"steps": STEPS, "budget": BUDGET, "repeats": 1, "side": SIDE, **changed})


def test_a_full_step_runs_the_base_and_a_shortcut_step_the_head_in_both_branches(lumina):
    _, _, backbone, head = lumina
    half_way = speed.HalfWay(*lumina[:1], backbone, head, 2, STEPS, BUDGET, SIDE)
    seen = []
    for index, block in enumerate(backbone.blocks):
        block.register_forward_hook(lambda *_, index=index: seen.append(index))
    head.blocks[0].cross_attn.register_forward_hook(lambda *_: seen.append("head"))
    with torch.inference_mode():
        half_way.full()
        assert seen == [0, 1, 0, 1]
        half_way.shortcut()
        assert seen == [0, 1, 0, 1, "head", "head"]
        half_way.full_without_layers()
    assert len(seen) == 6 and len(backbone.blocks) == 2


def test_tokens_are_those_of_the_schedule_half_way(lumina):
    family, _, backbone, head = lumina
    keep = family.rule().keep(SIDE**2, SIDE**2, STEPS)
    half_way = speed.HalfWay(family, backbone, head, 3, STEPS, BUDGET, SIDE)
    assert half_way.masked.shape == (3, keep[STEPS // 2 - 1]) and half_way.new.shape == (3, keep[STEPS // 2 - 2] - keep[STEPS // 2 - 1])
    assert not set(half_way.masked[0].tolist()) & set(half_way.new[0].tolist())


def test_layers_that_are_not_built_take_as_long_as_the_others(lumina, monkeypatch):
    _, _, backbone, head = lumina

    def clocked(do, device):
        """Each block takes a second, and so does all that is beside them."""
        took = [1.0]
        hooks = [block.register_forward_hook(lambda *_: took.append(1.0)) for block in (*backbone.blocks, *head.blocks)]
        do()
        for hook in hooks:
            hook.remove()
        return sum(took)

    monkeypatch.setattr(speed, "clocked", clocked)
    assert measure(lumina).full == 1 + 6 * speed.BRANCHES
    whole = (lumina[0], replace(lumina[1], n_layers=2), *lumina[2:])
    assert measure(whole).full == 1 + 2 * speed.BRANCHES
    assert measure(lumina).rate == (48 + 4 + SIDE * (SIDE + 1)) * 32 * 64  # a product in one second


def test_what_is_counted_is_what_the_cost_of_a_run_counts(lumina):
    family, config, _, head = lumina
    found = measure(lumina)
    method, rule = METHODS["shortcut"].build({"budget": BUDGET}, head), family.rule()
    costs = step_costs(config, head.config, method, rule, ["full", *["shortcut"] * (STEPS - 1)], SIDE, SIDE)
    logits = lambda step: [SIDE**2, *rule.keep(SIDE**2, SIDE**2, STEPS)][step] * config.width * config.codebook_size  # noqa: E731
    half = STEPS // 2
    assert found.shortcut_macs == 2 * 2 * costs[half]
    assert found.full_macs == 2 * 2 * (costs[0] - logits(0) + logits(half))
    counted = largest_speed_up(config, head.config, method, rule, method.kinds(STEPS), SIDE, SIDE)
    assert found.counted_speed_up == pytest.approx(counted, rel=0.1)  # which has each step's own logits


def test_the_speed_up_of_a_run():
    assert speed.speed_up(64, 64, 0.1) == 1
    assert speed.speed_up(64, 11, 0) == 64 / 11
    found = speed.Speed(full=4.0, shortcut=1.0, full_macs=800, shortcut_macs=100, rate=400.0, steps=10, budget=2)
    assert (found.full_share, found.shortcut_share) == (0.5, 0.25)
    assert (found.speed_up, found.counted_speed_up) == (10 / (2 + 8 / 4), 10 / (2 + 8 / 8))


def test_the_command_prints_its_machine_and_a_row_for_each_batch(lumina, monkeypatch, capsys):
    family = lumina[0]
    monkeypatch.setattr(type(family), "config", lambda _=None: lumina[1])
    monkeypatch.setattr(speed, "ROOM", lumina[1].block_weights / 6 * 4 * 2.5)
    speed.main(["--family", "lumina-dimoo", "--batch", "1", "3", "--repeats", "1", "--device", "cpu", "--dtype", "fp32"])
    printed = capsys.readouterr().out
    assert f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32" in printed
    assert "N = 64, b = 11; 2 of 6 layers timed, the others added" in printed
    assert [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")][1:] == ["| 1", "| 3"]


@pytest.mark.parametrize("words", [["--batch", "0"], ["--repeats", "x"], ["--family", "none"]])
def test_bad_options_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        speed.main(words)
    assert words[1] in capsys.readouterr().err


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_can_be_measured(family):
    config = replace(family.config(), n_layers=1)
    assert isinstance(family.backbone(config, device="meta"), torch.nn.Module)
    assert family.new_head(config, speed.HEAD_RATIO).config.step_macs(10) > 0
