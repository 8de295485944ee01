"""A head for several tasks: runs of each are recorded by share, and one head learns them all."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_model import PROMPT, edit_json, make_small_model

from migm_core.checkpoints.fingerprint import fingerprint
from migm_core.cli import main
from migm_core.families.maskgit.rule import MaskGitRule
from migm_core.families.request import TaskRequest
from migm_core.pipeline import Pipeline
from migm_core.sampling.backbone import Branch
from migm_core.sampling.methods import Vanilla
from migm_core.training import head as of_head
from migm_core.training.head import split, validate
from migm_core.training.requests import mixed, read_requests
from migm_core.training.resample import resample
from migm_core.training.trajectories import BRANCHES, Shards, canvas_at, check_alike, task_of, unmasked_by, weights_of
from migm_core.training.transitions import Transitions

REQUESTS = [
    {"task": "text-to-image", "prompt": PROMPT},
    {"prompt": "a small green tree on the sand"},
    {"task": "edit", "prompt": "a red roof", "pictures": ["house.png"]},
    {"task": "edit", "prompt": "a blue tent", "pictures": "wide.png"},
    {"task": "dense", "kind": "depth", "pictures": ["house.png"]},
    {"task": "style", "pictures": ["house.png", "wide.png"]},
    {"task": "paint", "prompt": PROMPT, "pictures": ["house.png"], "mask": "mask.png", "grow": 1},
]
STEPS = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the tiny model, two pictures, a mask and a list of requests."""
    folder = tmp_path_factory.mktemp("tasks")
    small = make_small_model(folder)
    edit_json(small.folder / "generation_config.json", trained={"sizes": [[32, 32], [48, 16]]})
    for name, seed, size in (("house.png", 0, (32, 32)), ("wide.png", 1, (60, 20))):
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size).save(folder / name)
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 18:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    (folder / "requests.jsonl").write_text("\n".join(map(json.dumps, REQUESTS)) + "\n\n")
    return folder


@pytest.fixture(scope="module")
def pipeline(place) -> Pipeline:
    return Pipeline.load(place / "model", place / "shortcut.safetensors", dtype="fp32", device="cpu")


def migm(place: Path, command: str, work: Path, *options) -> int:
    model = ["--model", place / "model", "--device", "cpu", "--dtype", "fp32"]
    return main([str(part) for part in (command, work, *model, *options)])


@pytest.fixture(scope="module")
def recorded(place) -> Path:
    """A working folder with a run of each request."""
    assert migm(place, "collect", place / "work", "--prompt-file", place / "requests.jsonl", "--steps", STEPS, "--batch", 2) == 0
    return place / "work"


def runs_of(work: Path) -> list:
    return Shards.open(work / "trajectories", None)


def test_every_run_says_its_task_and_holds_what_its_head_learns(recorded, pipeline):
    runs = runs_of(recorded)
    assert [task_of(run) for run in runs] == ["text-to-image", "text-to-image", "edit", "edit", "dense", "style", "paint"]
    assert [len(run.prompts) for run in runs] == [2, 2, 3, 3, 3, 3, 2]
    edit, style, paint = runs[2], runs[5], runs[6]
    assert edit.run["prompt"] == "a red roof" and edit.run["request"]["pictures"] == ["house.png"]
    assert runs[4].run["request"]["kind"] == "depth" and paint.run["request"]["grow"] == 1
    assert edit.codes.shape == (4, 4) and style.codes.shape == (2, 6), "the last picture decides"
    assert weights_of(edit) == [7.5, -2.5, -4.0] and weights_of(runs[0]) == [3.0, -2.0]
    known = paint.unmasked_at.view(4, 4) < 0
    assert known[:, :2].all() and not known[:, 2:].any(), "token 2 is touched"
    for run in runs:
        for branch in range(len(run.prompts)):
            assert run.features(branch, 0).shape[-1] == pipeline.checkpoint.base.config.width


@pytest.mark.parametrize("index", [2, 6], ids=["edit", "paint"])
def test_a_run_is_that_of_generate_and_its_features_are_the_bases(recorded, pipeline, place, index):
    run, values = runs_of(recorded)[index], {key: value for key, value in REQUESTS[index].items() if key not in ("pictures", "mask")}
    images, mask = [place / name for name in REQUESTS[index]["pictures"]], REQUESTS[index].get("mask")
    result = pipeline.generate(**values, images=images, mask=mask and place / mask, method="vanilla", steps=STEPS, seed=index)
    assert torch.equal(run.codes, result.tokens[0])
    base = pipeline.checkpoint.base
    for branch, prompt in enumerate(run.prompts):
        sequence = base.sequence(Branch(prompt[None], 1.0, prompt_visible=branch == 0), canvas_at([run], 2))
        torch.testing.assert_close(run.features(branch, 2).float(), base.features(sequence)[0], atol=0.02, rtol=0.01)  # kept in float16


def test_on_a_partly_known_canvas_the_head_learns_the_mask_ratios_that_sampling_gives_it(recorded, pipeline, place):
    sampled, learned, (run,) = [], [], [each for each in runs_of(recorded) if task_of(each) == "paint"]

    class Listening(Vanilla):
        def start(self, backbone, sequences, mask_ratios):
            sampled.extend(mask_ratios)
            return super().start(backbone, sequences, mask_ratios)

    request = {key: value for key, value in REQUESTS[6].items() if key not in ("pictures", "mask")}
    pipeline.generate(**request, images=[place / "house.png"], mask=place / "mask.png", method=Listening(), steps=STEPS)
    assert sampled[0] == 1 and run.steps == STEPS
    transitions = Transitions([run], pipeline.checkpoint.base, pipeline.settings().rule)
    hook = pipeline.head.register_forward_pre_hook(lambda head, arguments: learned.append(arguments[3].item()))
    try:
        list(transitions.rollout(pipeline.head, [run], 0, 0, STEPS - 1))
        transitions.sampled_rollout(pipeline.head, [run], 0, 0, STEPS - 1, [torch.Generator().manual_seed(0)])
    finally:
        hook.remove()
    assert learned == pytest.approx(sampled[1:] * 2, abs=1e-6)
    of_whole = Transitions([run], pipeline.checkpoint.base, MaskGitRule()).transition([run], 0, 0, pipeline.head)[0][3]
    assert of_whole.item() == pytest.approx(int((run.unmasked_at > 0).sum()) / 16), "MaskGIT's rule counts the known tokens too"


def test_collecting_goes_on_and_refuses_other_requests(recorded, place, tmp_path, capsys):
    listed = ["--prompt-file", place / "requests.jsonl", "--steps", STEPS]
    assert migm(place, "collect", recorded, *listed) == 0
    assert "is complete: all 7 trajectories are there" in capsys.readouterr().err
    assert migm(place, "collect", recorded, *listed, "--image-cfg", 1) == 2
    assert "trajectory-000002.safetensors is of image_guidance_scale 4.0, not 1.0." in capsys.readouterr().err
    (place / "others.jsonl").write_text("\n".join(map(json.dumps, [*REQUESTS[:4], {**REQUESTS[4], "kind": "hed"}])))
    assert migm(place, "collect", recorded, "--prompt-file", place / "others.jsonl", "--steps", STEPS) == 2
    assert "trajectory-000004.safetensors is of another request: kind depth, not hed." in capsys.readouterr().err


def test_what_collecting_tasks_takes_is_told_before(place, tmp_path, capsys):
    options = ["--prompt-file", place / "requests.jsonl", "--steps", STEPS]
    assert migm(place, "collect", tmp_path, *options, "--dry-run") == 0
    assert "7 trajectories to record: " in (said := capsys.readouterr().err) and f", {STEPS * (3 * 2 + 4 * 3)} passes of the base model" in said
    assert not (tmp_path / "trajectories").exists()


@pytest.mark.parametrize(("image_cfg", "cfg", "kept"), [(0, 2, [0, 1]), (2, 0, [0, 2]), (0, 0, [0])])
def test_branches_that_a_run_leaves_out_are_computed_when_they_are_learned(place, pipeline, tmp_path, image_cfg, cfg, kept):
    (tmp_path / "one.jsonl").write_text(json.dumps({**REQUESTS[2], "pictures": [str(place / "house.png")]}))
    assert migm(place, "collect", tmp_path, "--prompt-file", tmp_path / "one.jsonl", "--steps", STEPS, "--image-cfg", image_cfg, "--cfg", cfg) == 0
    (run,) = runs_of(tmp_path)
    assert [branch for branch in range(len(BRANCHES)) if run.features(branch, 0) is not None] == kept
    transitions = Transitions([run], pipeline.checkpoint.base, pipeline.settings().rule)
    for branch in range(3):
        assert next(transitions.rollout(pipeline.head, [run], 0, branch, 1)).target.isfinite().all()
    (again,) = resample(pipeline.checkpoint.base, pipeline.settings().rule, [run], 1, 2, np.random.default_rng(0))
    assert [branch for branch in range(3) if again.features(branch, 2) is not None] == kept
    assert unmasked_by([again], 2).shape == unmasked_by([run], 2).shape


def test_one_head_learns_every_task(place, pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(of_head, "VALIDATE_EVERY", 150)
    shares = [part for task in ("text-to-image=1", "edit=2", "paint=1") for part in ("--task", task)]
    assert migm(place, "collect", tmp_path, "--prompt-file", place / "requests.jsonl", "--steps", STEPS, "--count", 16, "--batch", 4, *shares) == 0
    runs, base = runs_of(tmp_path), pipeline.checkpoint.base
    check_alike(runs, fingerprint(base), base.config)
    counts = {task: sum(task_of(run) == task for run in runs) for task in ("text-to-image", "edit", "paint")}
    assert counts == {"text-to-image": 4, "edit": 8, "paint": 4}
    assert len({run.run["seed"] for run in runs}) == 16
    assert migm(place, "train-head", tmp_path, "--steps", 150, "--lr", 5e-3, "--min-lr", 5e-4, "--decay-steps", 110, "--ratio", 1, "--ema", 0.9, "--batch", 2) == 0
    head = Pipeline.load(place / "model", tmp_path / "head" / "shortcut.safetensors", dtype="fp32", device="cpu").head
    logged = [json.loads(line) for line in (tmp_path / "head" / "log.jsonl").read_text().splitlines()]
    assert {line["task"] for line in logged if "val_mse" in line} == set(counts)
    for task in counts:
        transitions = Transitions([run for run in runs if task_of(run) == task], base, pipeline.settings().rule)
        values = validate(head, transitions, 1)
        assert values["val_mse"] < 0.9 * values["val_mse_still"], (task, values)


def test_a_head_may_learn_all_tasks_that_there_are_and_then_serves_each(place, pipeline, tmp_path):
    requests = []
    for task in pipeline.checkpoint.family.tasks.values():
        kind = {} if task.kinds is None else {"kind": next(iter(task.kinds), "left")}
        pictures = {"pictures": [str(place / name) for name in ("house.png", "wide.png")[: len(task.pictures)]]} if task.pictures else {}
        mask = {"mask": str(place / "mask.png")} if task.paints else {}
        requests.append({"task": task.name, **({"prompt": PROMPT} if task.takes_text else {}), **kind, **pictures, **mask})
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, requests)))
    shares = [part for request in requests for part in ("--task", f"{request['task']}=1")]
    assert migm(place, "collect", tmp_path, "--prompt-file", tmp_path / "all.jsonl", "--steps", STEPS, "--count", 2 * len(requests), *shares) == 0
    assert [task_of(run) for run in runs_of(tmp_path)] == [request["task"] for request in requests] * 2
    options = ["--rollout", 2, "--kl", 0.1, "--resample-every", 2, "--unconditional-every", 2]
    assert migm(place, "train-head", tmp_path, "--steps", 4, "--ratio", 1, *options) == 0
    trained = Pipeline.load(place / "model", tmp_path / "head" / "shortcut.safetensors", dtype="fp32", device="cpu")
    for request in requests:
        result = trained.generate(**{"images" if name == "pictures" else name: value for name, value in request.items()}, steps=STEPS, budget=2)
        assert result.head_fits in ("good", "fair", "poor") and [probed.step for probed in result.probed] == result.full_steps[1:]


def test_a_tenth_of_each_task_is_kept_for_validation():
    class Run:
        def __init__(self, task):
            self.run = {"request": {"task": task}}

    runs = [Run(("edit", "paint")[index % 2]) for index in range(40)] + [Run("style")] * 1
    learned, held_out = split(runs)
    assert {task: len(some) for task, some in held_out.items()} == {"edit": 2, "paint": 2, "style": 1}
    assert len(learned) == 37 and runs[-1] in learned


def test_shares_are_kept_in_every_part_of_a_list_and_lines_are_taken_in_turn():
    requests = [TaskRequest("edit", str(number)) for number in range(3)] + [TaskRequest("paint", "x")]
    chosen = mixed(requests, {"edit": 3, "paint": 1}, 40)
    assert mixed(requests, {"edit": 3, "paint": 1}, 12) == chosen[:12], "more of them begin with the same"
    for count in (4, 20, 40):
        assert sum(each.task == "edit" for each in chosen[:count]) == 0.75 * count
    assert [each.prompt for each in chosen if each.task == "edit"][:7] == ["0", "1", "2", "0", "1", "2", "0"]


def test_lines_are_taken_again_with_other_seeds(place, tmp_path):
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n\na small red house on the sand\n")
    assert migm(place, "collect", tmp_path, "--prompt-file", tmp_path / "prompts.txt", "--count", 3, "--steps", STEPS, "--seed", 5) == 0
    runs = runs_of(tmp_path)
    assert [run.run["prompt"] == PROMPT for run in runs] == [True, False, True] and [run.run["seed"] for run in runs] == [5, 6, 7]
    assert task_of(runs[0]) is None and not torch.equal(runs[0].codes, runs[2].codes)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "this is no JSON"),
        ("[" * 100000, "this is no JSON"),
        ("[]", "expected an object such as"),
        ('{"task": "fly"}', "task is 'fly', expected one of"),
        ('{"task": 3}', "task is 3, expected one of"),
        ('{"task": "edit", "prompt": "x"}', "The task edit takes 1 picture: the picture to edit; none is given"),
        ('{"task": "edit", "prompt": "x", "pictures": ["nowhere.png"]}', "there is no file"),
        ('{"task": "edit", "prompt": "x", "pictures": [3]}', "pictures is [3], expected a list of paths"),
        ('{"task": "edit", "prompt": 7, "pictures": ["house.png"]}', "prompt is 7, expected text"),
        ('{"task": "edit", "promt": "x", "pictures": ["house.png"]}', "'promt' is unknown. Expected task, prompt,"),
        ('{"task": "edit", "prompt": "x", "pictures": ["house.png"], "grow": 3}', "'grow' is unknown"),
        ('{"task": "edit", "prompt": "x", "pictures": ["house.png"], "mask": "mask.png"}', "takes no mask"),
        ('{"task": "dense", "pictures": ["house.png"]}', "needs a kind"),
        ('{"task": "paint", "pictures": ["house.png"], "grow": -1}', "grow is -1"),
        ('{"task": "paint", "pictures": ["house.png"], "extend": 3}', "extend is 3"),
    ],
)
def test_a_bad_line_of_a_list_is_named(place, pipeline, line, expected):
    path = place / "bad.jsonl"
    path.write_text(json.dumps(REQUESTS[0]) + f"\n\n{line}\n")
    with pytest.raises(ValueError) as caught:
        read_requests(path, pipeline.checkpoint.family)
    assert str(caught.value).startswith(f"{path}, line 3: ") and expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--task", "edit"], "'edit' is no NAME=SHARE"),
        (["--task", "edit=0"], "'edit=0' is no NAME=SHARE"),
        (["--task", "fly=1"], "task is 'fly', expected one of"),
        (["--task", "edit=1", "--task", "edit=2"], "names a task twice"),
        (["--task", "subject=1"], "None of the requests is of the task subject"),
        (["--count", "0"], "is no whole number from 1"),
        (["--image-cfg", "-1"], "migm: image-cfg is -1"),
        (["--cfg", "-1"], "migm: cfg is -1"),
    ],
)
def test_shares_that_cannot_be_are_refused(place, tmp_path, capsys, options, expected):
    assert migm(place, "collect", tmp_path / "work", "--prompt-file", place / "requests.jsonl", *options) == 2
    assert expected in capsys.readouterr().err and not (tmp_path / "work").exists()


def test_shares_and_scales_need_requests(place, tmp_path, capsys):
    assert migm(place, "collect", tmp_path / "work", "--task", "edit=1") == 2
    assert "--task needs requests to choose from" in capsys.readouterr().err
    assert migm(place, "collect", tmp_path / "work", "--count", 2, "--image-cfg", 2) == 2
    assert "--image-cfg counts only for tasks" in capsys.readouterr().err
