"""`migm generate` with the tiny model: what it prints, and what it leaves on disk."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from commands import migm
from PIL import Image
from small_model import PROMPT

import migm_core
from migm_core import outputs
from migm_core.sampling.methods import METHODS
from migm_core.sampling.schedules import full_steps


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
    options = ["--size", "48x16", "--steps", 6, "--budget", 2, "--cfg", 1.5, "--temperature", 0.5, "--seed", 9, "--negative", "circle"]
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
        "guidance_scale": 1.5,
        "temperature": 0.5,
        "remasking": "exact",
        "method": "shortcut",
        "seed": 9,
        "batch": 1,
    }
    generate(*options, "--out", "again.png", prompt=prompt)
    assert Path("again.png").read_bytes() == Path("migm.png").read_bytes()


def test_settings_come_with_the_model_and_a_budget_follows_the_steps(generate):
    generate("--report", "own.json")
    own = json.loads(Path("own.json").read_text())
    assert [own[name] for name in ("width", "height", "steps", "budget", "guidance_scale", "temperature")] == [32, 32, 8, 3, 2.0, 1.0]
    generate("--steps", 16, "--report", "more.json")
    more = json.loads(Path("more.json").read_text())
    assert (more["steps"], more["budget"], more["full_steps"]) == (16, 6, full_steps(16, 6))


def test_the_report(generate, small, pipeline):
    generate("--batch", 2, "--seed", 4, "--report", "run.json")
    report = json.loads(Path("run.json").read_text())
    timed = {name: report.pop(name) for name in ("seconds", "seconds_per_step", "speed_up", "peak_memory_bytes")}
    of_images = [image.pop("log_likelihood") for image in report["images"]]
    assert report == {
        "version": migm_core.__version__,
        "family": "lumina-dimoo",
        "model": str(small.folder),
        "head": str(small.head),
        "method": "shortcut",
        "steps": 8,
        "budget": 3,
        "guidance_scale": 2.0,
        "temperature": 1.0,
        "remasking": "exact",
        "width": 32,
        "height": 32,
        "seed": 4,
        "batch": 2,
        "full_steps": [0, 3, 5],
        "vanilla_passes": 8,
        "images": [{"path": "migm-0.png", "prompt": PROMPT, "seed": 4}, {"path": "migm-1.png", "prompt": PROMPT, "seed": 5}],
        "cautions": [],
        "unknown_words": [],
        "device": "cpu",
        "dtype": "float32",
    }
    assert timed["seconds"] > 0 and timed["speed_up"] > 0
    assert set(timed["seconds_per_step"]) == {"full", "shortcut"} and min(timed["seconds_per_step"].values()) > 0
    assert 2**20 < timed["peak_memory_bytes"] < 2**40
    assert of_images == pipeline.generate(PROMPT, batch=2, seed=4).log_likelihood.tolist()


@pytest.mark.parametrize(
    ("options", "absent", "negative"),
    [(["--method", "vanilla"], {"head", "budget"}, True), (["--cfg", "0"], {"negative"}, False)],
)
def test_reports_and_images_name_nothing_that_was_not_used(generate, options, absent, negative):
    generate("--negative", "circle", *options, "--report", "run.json")
    report, image = json.loads(Path("run.json").read_text()), json.loads(Image.open("migm.png").text["migm"])
    for said in (report, image):
        assert not absent & set(said) and said["method"] in METHODS and "model" in said
        assert said.get("negative") == ("circle" if negative else None)
        assert not {"interval", "warmup", "ratio"} & set(said)
    assert set(report["seconds_per_step"]) == {"full"} if "head" in absent else {"full", "shortcut"}


def test_a_prompt_file_gives_an_image_a_line(generate, pipeline, capsys, small):
    other = "a small green tree on the sand"
    Path("prompts.txt").write_text(f"{PROMPT}\r\n\n  {other}  \n\n\n{PROMPT}\n", encoding="utf-8-sig")
    expected = {1: (PROMPT, 7), 3: (other, 8), 6: (PROMPT, 9)}
    for batch in (1, 2):
        command = ["generate", "--prompt-file", "prompts.txt", "--model", small.folder, "--head", small.head, "--dtype", "fp32", "--device", "cpu"]
        assert migm(*command, "--seed", 7, "--batch", batch, "--report", "run.json") == 0
        assert len(capsys.readouterr().out.splitlines()) == {1: 3, 2: 2}[batch]
        assert sorted(path.name for path in Path().glob("*.png")) == [f"migm-{line}.png" for line in expected]
        for line, (prompt, seed) in expected.items():
            image = Image.open(f"migm-{line}.png")
            said = json.loads(image.text["migm"])
            assert (said["prompt"], said["seed"], image.text["Description"]) == (prompt, seed, prompt)
            assert image.tobytes() == pipeline.generate(prompt, seed=seed).images[0].tobytes()
        report = json.loads(Path("run.json").read_text())
        assert [(image["path"], image["prompt"], image["seed"]) for image in report["images"]] == [
            (f"migm-{line}.png", prompt, seed) for line, (prompt, seed) in expected.items()
        ]
        assert (report["full_steps"], report["vanilla_passes"], report["batch"]) == ([0, 3, 5], 8, batch)


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        (b"a heart\n\n" + b"red " * 70000, [], "prompts.txt, line 3: "),
        (b"a heart\n\xff", [], "prompts.txt is no text in UTF-8"),
        (b" \n\n", [], "prompts.txt holds no prompts"),
        (b"a heart\n" * 3, ["--batch", 0], "batch is 0"),
        (b"a heart\n" * 3, ["--seed", 2**64 - 2], "seed is"),
        (b"a heart\n", ["a prompt"], "either a PROMPT or --prompt-file FILE"),
        (None, [], "prompts.txt: No such file"),
    ],
)
def test_a_bad_prompt_file_leaves_nothing_behind(small, tmp_path, monkeypatch, capsys, content, options, expected):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("prompts.txt").write_bytes(content)
    assert migm("generate", *options, "--prompt-file", "prompts.txt", "--model", small.folder, "--head", small.head, "--report", "run.json") == 2
    assert expected in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ([] if content is None else ["prompts.txt"])


def test_a_prompt_is_needed(capsys):
    assert migm("generate") == 2
    assert "either a PROMPT or --prompt-file FILE" in capsys.readouterr().err


def test_peak_memory_minds_the_systems_unit(monkeypatch):
    resource = pytest.importorskip("resource")
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert outputs.peak_memory(torch.device("cpu")) >= kilobytes * 1024
    monkeypatch.setattr(sys, "platform", "darwin")
    assert outputs.peak_memory(torch.device("cpu")) < kilobytes * 1024
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert outputs.peak_memory(torch.device("cpu")) is None
