"""A method is one file and one line: a toy method in the registry is found wherever methods are."""

import pytest
import torch
from small_model import PROMPT
from toy_method import Toy

from migm_core.bench.compare import compare
from migm_core.bench.ways import parse_ways
from migm_core.cli import main
from migm_core.families.lumina_dimoo.config import LuminaConfig
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.sampling.cost import PlannedRun
from migm_core.sampling.memory import run_bytes
from migm_core.sampling.methods import METHODS, Vanilla
from migm_core.sampling.schedules import step_kinds


@pytest.fixture
def toy(monkeypatch):
    """Its one line in the registry."""
    monkeypatch.setitem(METHODS, "toy", Toy)


def printed(capsys, *argv) -> str:
    try:
        assert main([*map(str, argv)]) == 0
    except SystemExit as done:  # of --help
        assert not done.code
    return capsys.readouterr().out


def test_a_method_runs_by_its_name_with_its_setting(toy, pipeline):
    result = pipeline.generate(PROMPT, method="toy", steps=8, every=4)
    assert [kind for kind, _ in result.step_seconds] == ["full", "again", "again", "again"] * 2
    assert result.settings.used()["every"] == 4
    assert torch.equal(pipeline.generate(PROMPT, method="toy", every=1).tokens, pipeline.generate(PROMPT, method="vanilla").tokens)
    with pytest.raises(ValueError, match="every is 0, .*whole number from 1 to 64: a full step every so many steps"):
        pipeline.generate(PROMPT, method="toy", every=0)


def test_a_method_that_is_not_registered_is_an_argument(pipeline):
    result = pipeline.generate(PROMPT, method=Toy(every=4))
    assert result.settings.method == "toy" and result.full_steps == [0, 4]
    with pytest.raises(ValueError, match="'evry'.*'every'|There is no setting"):
        pipeline.generate(PROMPT, evry=4)


def test_a_methods_settings_that_are_mistyped_name_the_nearest(toy, pipeline):
    with pytest.raises(ValueError, match="'evry'.*'every'"):
        pipeline.generate(PROMPT, method="toy", evry=4)


@pytest.mark.parametrize("command", ["generate", "compare"])
def test_a_method_is_in_the_help_of_the_command_line(toy, capsys, command):
    said = " ".join(printed(capsys, command, "--help").split())
    assert "--every N" in said and "a full step every so many steps" in said
    assert command != "generate" or "toy: features of the last full step, once more" in said


def test_a_method_runs_from_the_command_line(toy, small, tmp_path, capsys):
    options = ["--model", small.folder, "--head", "none", "--method", "toy", "--every", 4, "--steps", 8, "--device", "cpu"]
    assert "2 full and 6 again steps" in printed(capsys, "generate", PROMPT, "--out", tmp_path / "x.png", *options)
    assert "every is 65" in _complaint(capsys, "generate", PROMPT, "--out", tmp_path / "x.png", *options, "--every", 65)


def _complaint(capsys, *argv) -> str:
    assert main([*map(str, argv)]) == 2
    return capsys.readouterr().err


def test_a_method_says_its_memory_and_its_cost(toy):
    config, rule, method = LuminaConfig(d_model=64, n_heads=2, n_kv_heads=2, n_layers=2, mlp_hidden_size=64), LuminaRule(), METHODS["toy"]()
    sizes = torch.float32, [100, 60], 16
    assert run_bytes(config, *sizes, method) == run_bytes(config, *sizes, Vanilla()) + 10**9
    kinds = step_kinds(method.kinds(8), rule.keep(64, 64, 8), 64)
    run = PlannedRun(method, rule, kinds, 8, 8)
    assert [cost - count * config.width * config.codebook_size for cost, count in zip(run.costs(config, None), run.masked)][1::2] == [7] * 4
    assert 1 < run.largest_speed_up(config, None) < 2


def test_a_method_is_in_the_bench(toy, pipeline):
    ways = parse_ways("vanilla; toy 8 every=4")
    assert ways["toy 8 every=4"] == {"method": "toy", "steps": 8, "every": 4}
    rows = compare(pipeline, [PROMPT], ways, rounds=1)
    assert [row.full_steps for row in rows] == [8, 2]
    assert rows[1].memory_bytes == rows[0].memory_bytes + 10**9


def test_the_bench_compares_all_methods_where_none_is_named(toy, small, capsys):
    said = printed(capsys, "compare", PROMPT, "--model", small.folder, "--head", small.head, "--rounds", 1, "--steps", 4, "--budget", 2, "--device", "cpu")
    assert [line.split("|")[1].strip() for line in said.splitlines() if line.startswith("|")][2:] == list(METHODS)
