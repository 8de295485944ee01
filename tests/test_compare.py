"""`migm compare`: ways of sampling in a user's words, and what is measured of them."""

import json

import pytest
from small_model import PROMPT

from migm_core.bench.compare import compare, table
from migm_core.bench.ways import parse_ways
from migm_core.cli import main


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vanilla", {"method": "vanilla"}),
        ("Vanilla 16", {"method": "vanilla", "steps": 16}),
        ("vanilla of 16", {"method": "vanilla", "steps": 16}),
        ("shortcut 9", {"method": "shortcut", "budget": 9}),
        ("shortcut 8 of 48", {"method": "shortcut", "budget": 8, "steps": 48}),
        ("shortcut of 48", {"method": "shortcut", "steps": 48}),
        ("ml-cache 20 interval=3 ratio=0.5", {"method": "ml-cache", "steps": 20, "interval": 3, "ratio": 0.5}),
        ("shortcut cfg=2.5 choice-temperature=1 schedule=root guidance-ramp=false",
         {"method": "shortcut", "guidance_scale": 2.5, "choice_temperature": 1, "schedule": "root", "guidance_ramp": False}),
    ],
)  # fmt: skip
def test_a_way_in_words(text, expected):
    assert parse_ways(text) == {text: expected}


def test_ways_are_separated_by_semicolons_and_lines():
    assert list(parse_ways(" vanilla;\n shortcut 9 ;; vanilla 16\n")) == ["vanilla", "shortcut 9", "vanilla 16"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no methods"),
        (" ; ", "no methods"),
        ("vanila", "'vanila' is no way of sampling. Expected one of vanilla, shortcut, ml-cache"),
        ("vanilla; shortcut nine", "'shortcut nine'"),
        ("vanilla 8 of 48", "takes its steps alone"),
        ("vanilla seed=3", "sets seed"),
        ("vanilla method=shortcut", "sets method"),
    ],
)
def test_what_is_no_way_is_named(text, expected):
    with pytest.raises(ValueError, match=expected):
        parse_ways(text)


def test_ways_are_measured_against_the_first(pipeline):
    ways = parse_ways("vanilla; shortcut 8; shortcut 2; ml-cache; vanilla 2")
    rows = compare(pipeline, [PROMPT, "red heart"], ways, rounds=3)
    vanilla, whole, short, cached, few = rows
    assert [row.full_steps for row in rows] == [8, 8, 2, 4, 2] and [row.rounds for row in rows] == [3] * 5
    assert vanilla.same_tokens == whole.same_tokens == 1 and vanilla.speed_up == (1, 1, 1)
    assert all(row.same_tokens < 1 for row in (short, few))
    assert short.memory_bytes > vanilla.memory_bytes and cached.memory_bytes > vanilla.memory_bytes
    assert all(row.seconds > 0 and row.speed_up.low <= row.speed_up.value <= row.speed_up.high for row in rows)
    assert short.settings["budget"] == 2 and "budget" not in vanilla.settings and "seed" not in vanilla.settings
    lines = table(rows, pipeline).splitlines()
    assert "1 CPU thread, cpu, float32; Lumina-DiMOO, 32x32" in lines[0]
    assert lines[5].startswith("| vanilla | 8 | 8 | ") and lines[-1].startswith("| vanilla 2 | 2 | 2 | ")
    assert len({line.count("|") for line in lines[3:]}) == 1


@pytest.mark.parametrize(("text", "expected"), [("vanilla; shortcut 9", "budget is 9"), ("vanilla; ml-cache intervall=3", "Did you mean 'interval'")])
def test_a_wrong_way_is_refused_before_anything_is_generated(pipeline, monkeypatch, text, expected):
    monkeypatch.setattr(type(pipeline), "generate", lambda *args, **options: pytest.fail("generated"))
    with pytest.raises(ValueError, match=expected):
        compare(pipeline, [PROMPT], parse_ways(text), rounds=1)


def test_the_command_compares_all_that_the_model_can_run(small, tmp_path, capsys):
    options = ["--model", str(small.folder), "--device", "cpu", "--dtype", "fp32", "--rounds", "1", "--steps", "4"]
    out = tmp_path / "rows.json"
    assert main(["compare", PROMPT, *options, "--head", str(small.head), "--report", str(out)]) == 0
    printed = capsys.readouterr()
    assert all(f"\n| {method} | 4 | " in printed.out for method in ("vanilla", "shortcut", "ml-cache")) and printed.err == ""
    assert [row["settings"]["method"] for row in json.loads(out.read_text())] == ["vanilla", "shortcut", "ml-cache"]
    assert main(["compare", PROMPT, *options, "--head", "none"]) == 0
    assert "| shortcut |" not in capsys.readouterr().out
    for wrong, expected in (["--rounds", "0"], "--rounds is 0"), (["--methods", "magic"], "'magic' is no way"), (["--methods", "shortcut"], "needs a shortcut head"):
        assert main(["compare", PROMPT, *options, "--head", "none", *wrong, "--report", str(tmp_path / "no.json")]) == 2
        printed = capsys.readouterr()
        assert expected in printed.err and printed.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]
