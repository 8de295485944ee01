"""The command line, with the tiny model: what it prints and what it leaves on disk."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_model import PROMPT

from migm_core import outputs
from migm_core.cli import main
from migm_core.settings import METHODS
from migm_core.sampling.schedule import full_steps

REPOSITORY = Path(__file__).resolve().parents[1]
ENV = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def migm(*argv) -> int:
    return main([str(part) for part in argv])


@pytest.fixture
def generate(small, tmp_path, monkeypatch):
    """Run ``migm generate`` with the tiny model in an empty folder; it must succeed."""
    monkeypatch.chdir(tmp_path)

    def run(*options, prompt=PROMPT, head=small.head):
        assert migm("generate", prompt, "--model", small.folder, "--head", head, "--dtype", "fp32", "--device", "cpu", *options) == 0

    return run


def test_generate_writes_an_image_and_a_line(generate, capsys, pipeline):
    generate()
    printed = capsys.readouterr()
    line = r"migm\.png: \d+\.\d\d s, 3 full and 5 shortcut steps, \d+\.\d\d times as fast as 8 full steps\n"
    assert re.fullmatch(line, printed.out)
    assert printed.err == ""  # a progress bar is for terminals
    assert [path.name for path in Path().iterdir()] == ["migm.png"]
    assert Image.open("migm.png").tobytes() == pipeline.generate(PROMPT).images[0].tobytes()


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (["--method", "vanilla"], "8 full steps"),
        (["--method", "ml-cache"], "4 full and 4 partial steps"),
        (["--steps", "1"], "1 full steps"),
        (["--method", "vanilla", "--size", "16x16", "--steps", "12"], "4 full and 8 skipped steps\n"),
        (["--size", "16x16", "--steps", "12", "--budget", "4"], "4 full, 5 shortcut and 3 skipped steps, "),
    ],
)
def test_the_line_counts_the_steps_of_each_kind(generate, capsys, options, kinds):
    generate(*options)
    assert kinds in capsys.readouterr().out


def test_a_batch_is_numbered_and_each_image_tells_its_own_seed(generate, pipeline):
    generate("--batch", 3, "--seed", 7, "--out", "hearts.png")
    assert sorted(path.name for path in Path().iterdir()) == ["hearts-0.png", "hearts-1.png", "hearts-2.png"]
    for index in range(3):
        image = Image.open(f"hearts-{index}.png")
        assert json.loads(image.text["migm"])["seed"] == 7 + index
        assert image.tobytes() == pipeline.generate(PROMPT, seed=7 + index).images[0].tobytes()


def test_an_image_tells_how_it_was_made_and_can_be_made_again(generate, small):
    prompt = 'ein "großes" rotes Herz ♥'
    options = ["--size", "48x16", "--steps", 6, "--budget", 2, "--guidance", 1.5, "--temperature", 0.5, "--seed", 9, "--negative", "circle"]
    generate(*options, prompt=prompt)
    image = Image.open("migm.png")
    assert image.size == (48, 16)
    assert image.text["Description"] == prompt
    assert json.loads(image.text["migm"]) == {
        "prompt": prompt,
        "negative": "circle",
        "model": str(small.folder),
        "head": str(small.head),
        "width": 48,
        "height": 16,
        "steps": 6,
        "budget": 2,
        "guidance": 1.5,
        "temperature": 0.5,
        "method": "shortcut",
        "seed": 9,
        "batch": 1,
    }
    generate(*options, "--out", "again.png", prompt=prompt)
    assert Path("again.png").read_bytes() == Path("migm.png").read_bytes()


def test_settings_come_with_the_model_and_a_budget_follows_the_steps(generate):
    generate("--report", "own.json")
    own = json.loads(Path("own.json").read_text())
    assert (own["size"], own["steps"], own["budget"], own["guidance"], own["temperature"]) == ([32, 32], 8, 3, 2.0, 1.0)
    generate("--steps", 16, "--report", "more.json")
    more = json.loads(Path("more.json").read_text())
    assert (more["steps"], more["budget"], more["full_steps"]) == (16, 6, full_steps(16, 6))


def test_the_report(generate):
    generate("--batch", 2, "--seed", 4, "--report", "run.json")
    report = json.loads(Path("run.json").read_text())
    timed = {name: report.pop(name) for name in ("seconds", "seconds_per_step", "speed_up", "peak_memory_bytes")}
    assert report == {
        "prompt": PROMPT,
        "negative": "",
        "method": "shortcut",
        "steps": 8,
        "budget": 3,
        "full_steps": [0, 3, 5],
        "vanilla_passes": 8,
        "guidance": 2.0,
        "temperature": 1.0,
        "seed": 4,
        "batch": 2,
        "size": [32, 32],
        "images": ["migm-0.png", "migm-1.png"],
        "unknown_words": [],
        "cautions": [],
        "device": "cpu",
        "dtype": "float32",
    }
    assert timed["seconds"] > 0 and timed["speed_up"] > 0
    assert set(timed["seconds_per_step"]) == {"full", "shortcut"} and min(timed["seconds_per_step"].values()) > 0
    assert 2**20 < timed["peak_memory_bytes"] < 2**40


def test_the_report_of_a_run_without_shortcut_steps(generate):
    generate("--method", "vanilla", "--report", "run.json", head="none")
    report = json.loads(Path("run.json").read_text())
    assert report["full_steps"] == list(range(8))
    assert report["seconds_per_step"]["shortcut"] is None
    assert json.loads(Image.open("migm.png").text["migm"])["head"] == "none"


def test_peak_memory_minds_the_systems_unit(monkeypatch):
    resource = pytest.importorskip("resource")
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert outputs.peak_memory(torch.device("cpu")) >= kilobytes * 1024
    monkeypatch.setattr(sys, "platform", "darwin")
    assert outputs.peak_memory(torch.device("cpu")) < kilobytes * 1024
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert outputs.peak_memory(torch.device("cpu")) is None


def test_inspect(small, capsys):
    assert migm("inspect", small.folder) == 0
    assert "Lumina-DiMOO base model" in capsys.readouterr().out
    assert migm("inspect", small.head) == 0
    assert "MIGM shortcut head" in capsys.readouterr().out
    assert migm("inspect", "demo") == 0
    assert "  complete" in capsys.readouterr().out


def test_convert_a_checkpoint_and_generate_from_it(small, tmp_path, capsys, generate, pipeline):
    target = tmp_path / "single.safetensors"
    assert migm("convert", small.folder, target) == 0
    assert str(target) in capsys.readouterr().out
    generate("--model", target)
    assert Image.open("migm.png").tobytes() == pipeline.generate(PROMPT).images[0].tobytes()


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)])
def test_convert_a_head_to_another_dtype(small, tmp_path, name, dtype):
    assert migm("convert", small.head, tmp_path / "head.safetensors", "--dtype", name) == 0
    assert {tensor.dtype for tensor in load_file(tmp_path / "head.safetensors").values()} == {dtype}


def test_the_methods_offered_are_those_there_are(capsys):
    with pytest.raises(SystemExit) as left:
        main(["generate", "--help"])
    assert left.value.code == 0
    assert "{" + ",".join(METHODS) + "}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train-tokenizer", "train-base", "collect", "train-head", "evaluate"])
def test_every_training_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert "FOLDER" in capsys.readouterr().out


def test_help_does_not_wait_for_torch():
    code = "import sys, migm_core.cli as cli\ntry: cli.main(['--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV)
    assert done.returncode == 0 and done.stdout.endswith("False\n")


def test_as_a_module(small, tmp_path):
    command = [sys.executable, "-m", "migm_core"]
    done = subprocess.run(
        [*command, "generate", PROMPT, "--model", small.folder, "--head", small.head, "--device", "cpu"],
        capture_output=True,
        text=True,
        env=ENV,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "migm.png").exists()
    done = subprocess.run([*command, "inspect", "nowhere"], capture_output=True, text=True, env=ENV, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "migm: nowhere does not exist. Check the path, or download the model first.\n"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a signal that comes by itself")
def test_ctrl_c_ends_a_run_quietly(small, tmp_path, capsys):
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        status = migm("generate", PROMPT, "--model", small.folder, "--steps", 1024, "--size", "256x256", "--out", tmp_path / "x.png")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert status == 130
    assert capsys.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_an_evaluation_that_cannot_be_written_ends_before_it_begins(tmp_path, capsys):
    out = tmp_path / "nowhere" / "rows.json"
    assert main(["evaluate", str(tmp_path), "--model", "demo", "--prompts", "100000", "--out", str(out)]) == 2
    assert str(out) in capsys.readouterr().err
