"""`migm compare` and MIGM Compare Methods: ways of sampling in a user's words, and what is measured and shown of them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from maskgit_folder import published
from nodes_without_host import room
from PIL import Image, ImageFont
from small_model import PROMPT, edit_json

from migm_core.bench.compare import compare, likeness, steps_of_passes, table
from migm_core.bench.divergence import divergence
from migm_core.bench.ways import parse_ways
from migm_core.canvas import Canvas
from migm_core.cli import main
from migm_core.families.request import TaskRequest
from migm_core.outputs import plan
from migm_core.pipeline import Pipeline
from migm_core.sampling.memory import run_bytes
from migm_core.sampling.methods import METHODS
from migm_core.sampling.schedules import SKIPPED
from migm_core.sampling.timing import StepTimer
from migm_core.trained import Trained


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vanilla", {"method": "vanilla"}),
        ("Vanilla 16", {"method": "vanilla", "steps": 16}),
        ("vanilla of 16", {"method": "vanilla", "steps": 16}),
        ("shortcut 9", {"method": "shortcut", "budget": 9}),
        ("shortcut 8 of 48", {"method": "shortcut", "budget": 8, "steps": 48}),
        ("vanilla cfg=0 image-cfg=2.5", {"method": "vanilla", "guidance_scale": 0, "image_guidance_scale": 2.5}),
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


def test_a_way_that_is_written_again_is_measured_again():
    ways = parse_ways("vanilla; shortcut 9; vanilla; vanilla")
    assert list(ways) == ["vanilla", "shortcut 9", "vanilla (2)", "vanilla (3)"]
    assert ways["vanilla"] == ways["vanilla (2)"] == ways["vanilla (3)"]


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
    rows = compare(pipeline, [PROMPT, "red house"], ways, rounds=3)
    vanilla, whole, short, cached, few = rows
    assert [row.full_steps for row in rows] == [8, 8, 2, 4, 2] and [row.rounds for row in rows] == [3] * 5
    assert vanilla.same_tokens == whole.same_tokens == 1 and vanilla.speed_up == (1, 1, 1)
    assert all(row.same_tokens < 1 for row in (short, few))
    assert short.memory_bytes > vanilla.memory_bytes and cached.memory_bytes > vanilla.memory_bytes
    assert all(row.seconds > 0 and row.speed_up.low <= row.speed_up.value <= row.speed_up.high for row in rows)
    assert short.settings["budget"] == 2 and "budget" not in vanilla.settings and "seed" not in vanilla.settings
    lines = table(rows, pipeline).splitlines()
    assert "1 CPU thread, cpu, float32; Lumina-DiMOO, 32x32" in lines[0]
    assert lines[7].startswith("| vanilla | 8 | 8 | ") and lines[-1].startswith("| vanilla 2 | 2 | 2 | ")
    assert len({line.count("|") for line in lines[5:]}) == 1
    assert vanilla.kl == whole.kl == few.kl == 0 < min(short.kl, cached.kl), "fewer steps are exact, each by itself"
    assert vanilla.pixel_difference == whole.pixel_difference == 0 < min(short.pixel_difference, few.pixel_difference)
    # Prompts take turns, so that rounds 0 and 2 have the first.
    images = [pipeline.generate(PROMPT, seed=seed, method="vanilla") for seed in (0, 2)]
    assert (vanilla.same_tokens_of_seeds, vanilla.pixel_difference_of_seeds) == likeness(*images, torch.ones(1, 4, 4, dtype=torch.bool))
    assert f"Between seeds of the first row: {vanilla.same_tokens_of_seeds:.1%}" in lines[2]
    (once,) = compare(pipeline, [PROMPT], parse_ways("vanilla"), rounds=1)
    assert once.same_tokens_of_seeds is None and "Between seeds" not in table([once], pipeline)


def test_the_divergence_is_that_of_each_step_from_a_pass_of_the_base(pipeline):
    base, settings = pipeline.checkpoint.base, pipeline.settings(method="shortcut", steps=8, budget=3)
    canvases = []
    result = pipeline.generate(PROMPT, seed=4, steps=8, budget=3, record=True, callback=lambda report: canvases.append(report.canvas))
    before = [Canvas.empty(1, 4, 4), *canvases]
    branches = pipeline.checkpoint.family.branches(pipeline.checkpoint, PROMPT, "", settings.guidance_scale, 1)
    expected = []
    for step, (kind, _) in enumerate(result.step_seconds):
        if kind == SKIPPED:
            continue
        recorded = result.recorded[0][len(expected)]
        sequences = [base.sequence(branch, before[step]) for branch in branches]
        with torch.inference_mode():
            logits = [base.code_logits(base.features(each)[:, each.positions[recorded.masked[0]]]) * branch.weight for each, branch in zip(sequences, branches)]
        expected.append(torch.nn.functional.kl_div(recorded.logits.log_softmax(-1), sum(logits).log_softmax(-1), log_target=True, reduction="none").sum(-1).mean().item())
    assert len(expected) > 3 and max(expected) > 0.1
    assert divergence(pipeline, branches, Canvas.empty(1, 4, 4), settings, 4) == pytest.approx(sum(expected) / len(expected), rel=1e-4)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((32, 32))


@pytest.fixture
def painter(pipeline) -> Pipeline:
    """The tiny model, whose input pictures have its own size."""
    return Pipeline(replace(pipeline.checkpoint, trained=Trained(((32, 32),))), pipeline.head)


@pytest.mark.parametrize("task", ["edit", "paint"])
def test_ways_are_measured_on_a_task(painter, picture, task):
    mask = torch.zeros(32, 32)
    mask[:, 16:] = 1
    given = {"mask": mask} if task == "paint" else {}
    ways = parse_ways("vanilla; " + "; ".join(f"{name} 6" for name in METHODS))
    rows = compare(painter, ["red house"], ways, rounds=2, request=TaskRequest(task, pictures=picture, **given))
    assert [row.settings["task"] for row in rows] == [task] * (len(METHODS) + 1)
    assert rows[0].settings["width"] == 32 and f"Lumina-DiMOO, {task}, 32x32" in table(rows, painter)
    first, *_ = rows
    generated = torch.ones(1, 4, 4, dtype=torch.bool) if task == "edit" else torch.tensor([[False, False, True, True]]).repeat(4, 1)[None]
    for row, name in zip(rows[1:], METHODS):
        results = [[painter.generate("red house", task=task, images=picture, seed=seed, **way, **given) for way in (ways["vanilla"], ways[f"{name} 6"])] for seed in (0, 1)]
        tokens, pixels = zip(*(likeness(*pair, generated) for pair in results))
        assert (row.same_tokens, row.pixel_difference) == (pytest.approx(sum(tokens) / 2), pytest.approx(sum(pixels) / 2))
    prompts, system = painter.checkpoint.prompts, "editing" if task == "edit" else "text_to_image"
    lengths = [len(prompt) + 24 for prompt in (prompts.prompt("red house", system), prompts.unconditional("", system))]
    if task == "edit":  # three branches, two of which read the picture's tokens
        lengths = [lengths[0] + 22, lengths[1] + 22, lengths[0]]
    method = painter.method(painter.settings(method="vanilla"))
    assert first.memory_bytes == run_bytes(painter.checkpoint.base.config, painter.dtype, lengths, int(generated.sum()), method)


def test_only_what_was_generated_is_held_against_each_other(painter, picture):
    mask = torch.zeros(32, 32)
    mask[:, 16:] = 1
    one, other = (painter.generate("red house", task="paint", images=picture, mask=mask, method="vanilla", seed=seed) for seed in (0, 1))
    generated = torch.tensor([[False, False, True, True]]).repeat(4, 1)[None]
    tokens, pixels = likeness(one, other, generated)
    everywhere = likeness(one, other, torch.ones_like(generated))
    assert everywhere == (pytest.approx((tokens + 1) / 2), pytest.approx(pixels / 2)), "the left half is the picture's own"
    assert likeness(one, one, generated) == (1, 0)


@pytest.mark.parametrize(("asked", "message"), [({"rounds": 0}, "rounds is 0, .* at least 1"), ({"seed": 2**64 - 2, "rounds": 3}, "seed is 18446744073709551614")])
def test_what_no_round_can_have_is_refused_before_the_first(pipeline, monkeypatch, asked, message):
    monkeypatch.setattr(Pipeline, "generate", lambda *_, **__: pytest.fail("an image is generated"))
    with pytest.raises(ValueError, match=message):
        compare(pipeline, [PROMPT], parse_ways("vanilla"), **asked)


def test_steps_are_timed_on_the_models_own_device(monkeypatch):
    """With two cards the current one need not be the model's."""
    model, seen = torch.device("cuda:1"), []
    event = SimpleNamespace(record=seen.append, elapsed_time=lambda _: 2000)
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: seen.append(device))
    timer = StepTimer(model)
    timer.start()
    timer.lap(SimpleNamespace(kind="full"))
    assert timer.seconds() == [("full", 2.0)] and seen == ["stream of cuda:1"] * 2 + [model]


def test_vanilla_in_the_time_of_each_other_method(painter, picture, monkeypatch):
    # A full step takes a second, any other 0.2: shortcut 4 of 8 takes 4.8, ml-cache with 3 full steps 4.
    monkeypatch.setattr(StepTimer, "seconds", lambda timer: [(kind, {"full": 1.0, SKIPPED: 0.0}.get(kind, 0.2)) for kind, *_ in timer._laps])
    ways = parse_ways("vanilla; shortcut 4; ml-cache 8 warmup=0; shortcut 8; shortcut 3")
    request = TaskRequest("edit", pictures=picture)
    plain = compare(painter, ["red house"], ways, rounds=1, request=request)
    rows = compare(painter, ["red house"], ways, rounds=1, request=request, same_time=True)
    assert [row.way for row in rows[: len(ways)]] == [*ways] == [row.way for row in plain]
    assert [(row.way, row.settings["steps"], row.settings["method"]) for row in rows[len(ways) :]] == [
        ("vanilla 5, in the time of shortcut 4", 5, "vanilla"),
        ("vanilla 3, in the time of ml-cache 8 warmup=0", 3, "vanilla"),
        ("vanilla 4, in the time of shortcut 3", 4, "vanilla"),
    ]


def test_vanilla_takes_no_fewer_steps_than_its_rule_needs(tmp_path, monkeypatch):
    # Of two steps one takes a second and the other nothing: the time of one, but MaskGIT's schedules have two.
    monkeypatch.setattr(StepTimer, "seconds", lambda timer: [(kind, float(kind == "full")) for kind, *_ in timer._laps])
    maskgit = Pipeline.load(published(tmp_path), dtype="fp32", device="cpu")
    ways = parse_ways("ml-cache 2 warmup=0 interval=1000 ratio=1; ml-cache 8 warmup=0 interval=1000 ratio=1")
    rows = compare(maskgit, ["3"], ways, rounds=1, same_time=True)
    assert [(row.settings["method"], row.settings["steps"]) for row in rows] == [("ml-cache", 2), ("ml-cache", 8), ("vanilla", 2)]
    counts = maskgit.settings(method="vanilla", steps=3, schedule=(12, 12, 12))
    assert steps_of_passes(counts, 1, Canvas.empty(1, 6, 6)) == 3, "a schedule of counts has as many steps as counts"


def test_steps_that_unmask_nothing_cost_no_pass(painter):
    settings, canvas = painter.settings(steps=64, method="vanilla"), Canvas.empty(1, 4, 4)
    for passes in (1, 3, 7.4, 7.6, 12):
        steps = steps_of_passes(settings, passes, canvas)
        assert plan(painter, replace(settings, steps=steps))[1] <= round(passes) < plan(painter, replace(settings, steps=steps + 1))[1]
    assert steps_of_passes(settings, 0.1, canvas) == 1 and steps_of_passes(settings, 99, canvas) == 64


def test_the_command_compares_on_a_task(copy, picture, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    edit_json(copy.folder / "generation_config.json", trained={"sizes": [[32, 32]]})
    picture.save("house.png"), Image.new("L", (16, 16), 255).save("mask.png")
    options = ["--model", str(copy.folder), "--head", str(copy.head), "--device", "cpu", "--dtype", "fp32", "--rounds", "1", "--steps", "4", "--image", "house.png"]
    assert main(["compare", "red house", "--task", "edit", *options, "--image-cfg", "0", "--report", "rows.json"]) == 0
    printed = capsys.readouterr()
    assert all(f"\n| {method} | 4 | " in printed.out for method in METHODS) and printed.err == ""
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["settings"]["task"] for row in rows} == {"edit"} and {row["settings"]["image_guidance_scale"] for row in rows} == {0}
    assert main(["compare", "--task", "paint", *options, "--mask", "mask.png", "--grow", "2", "--methods", "vanilla 3", "--report", "paint.json"]) == 0
    assert "The mask has 16x16 pixels and the picture 32x32: the mask is scaled." in capsys.readouterr().err
    assert [row["way"] for row in json.loads((tmp_path / "paint.json").read_text())] == ["vanilla 3"], "nothing else where methods are named"
    for wrong, expected in [
        (["--task", "style"], "takes 2 pictures"),
        (["--task", "edit"], "Expected either a PROMPT or --prompt-file"),
        ([" ", "--task", "edit"], "needs a prompt"),
        (["red house", "--task", "edit", "--cfg", "-1"], "cfg is -1.0"),
        (["red house"], "--image is given, but no task"),
    ]:
        assert main(["compare", *wrong, *options, "--report", "no.json"]) == 2
        printed = capsys.readouterr()
        assert expected in printed.err and printed.out == "" and not (tmp_path / "no.json").exists()


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
    assert main(["compare", PROMPT, *options, "--head", str(small.head), "--steps", "1"]) == 0
    printed = capsys.readouterr().out
    assert "\n| vanilla | 1 | " in printed and "\n| ml-cache | 1 | " in printed and "| shortcut |" not in printed, "which needs two steps"
    refusals = {"--rounds=0": "--rounds: '0' is no whole number from 1", "--methods=magic": "'magic' is no way", "--methods=shortcut": "needs a shortcut head"}
    for wrong, expected in refusals.items():
        assert main(["compare", PROMPT, *options, "--head", "none", wrong, "--report", str(tmp_path / "no.json")]) == 2
        printed = capsys.readouterr()
        assert expected in printed.err and printed.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]


# The node


def test_each_line_of_the_node_is_a_way_of_its_own():
    """The first line pays for warming up: so it may stand there again."""
    vanilla, shortcut = {"method": "vanilla"}, {"method": "shortcut", "budget": 8}
    assert room("compare").parse("vanilla\n\nshortcut 8\n VANILLA\n") == [("vanilla", vanilla), ("shortcut 8", shortcut), ("vanilla", vanilla)]


LONG = "ml-cache 8 interval=3 ratio=0.25 warmup=2"


def test_a_label_stays_beneath_its_own_image():
    node = room("compare")
    dark, columns = torch.zeros(2, 256, 256, 3), slice(node.MARGIN + 256, 2 * node.MARGIN + 256)
    for way in (LONG, "shortcut 8 of 48"):
        sheet = node.contact_sheet([*dark], [[way, "2 of 8 steps full", "0.50 s"]] * 2)[0]
        between = sheet[:, columns]
        assert (between == between[0, 0]).all(), way


@pytest.mark.parametrize("text", [LONG, LONG * 10_000, "shortcut 8", "", "i" * 300])
def test_a_line_without_room_is_cut_as_late_as_possible_and_says_so(text):
    font = ImageFont.load_default(15)
    shown = room("compare").shortened(text, font, 256)
    assert font.getlength(shown) <= 256
    if shown != text:
        kept = shown.removesuffix("…")
        assert shown != kept and text.startswith(kept) and font.getlength(f"{text[: len(kept) + 2]}…") > 256
    else:
        assert len(text) < 20
