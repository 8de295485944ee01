"""The command line, with the tiny model: what it prints and what it leaves on disk."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hub_server import HubServer
from PIL import Image
from safetensors.torch import load_file
from small_model import PROMPT

import migm_core
from migm_core import hub as hub_module
from migm_core import outputs
from migm_core.cli import main
from migm_core.families import FAMILIES
from migm_core.sampling.methods import METHODS, Vanilla
from migm_core.sampling.schedules import full_steps
from migm_core.sampling.setting import choice, setting, settings_of

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
    other = "a small green star on a cream background"
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


def test_inspect(small, capsys):
    assert migm("inspect", small.folder) == 0
    assert "Lumina-DiMOO base model" in capsys.readouterr().out
    assert migm("inspect", small.head) == 0
    assert "MIGM shortcut head" in capsys.readouterr().out
    assert migm("inspect", "demo") == 0
    assert "  complete" in capsys.readouterr().out


def test_inspect_and_convert_take_the_name_of_a_repository(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hub_module, "resolve", {"Some-One/tiny": small.folder, "Some-One/heads:tiny.safetensors": small.head}.get)
    assert migm("inspect", "Some-One/tiny") == 0
    assert "Lumina-DiMOO base model" in capsys.readouterr().out
    assert migm("convert", "Some-One/heads:tiny.safetensors", tmp_path / "head.safetensors") == 0
    assert load_file(tmp_path / "head.safetensors").keys() == load_file(small.head).keys()


@pytest.mark.parametrize("command", ["generate", "inspect", "collect"])
def test_an_option_that_a_command_does_not_have_leads_to_its_help(capsys, command):
    assert migm(command, "x", "--nothing", "3") == 2
    assert capsys.readouterr().err == f"migm: unrecognized arguments: --nothing 3. See migm {command} --help.\n"


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


def help_of(capsys, command: str) -> str:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["generate", "compare", "evaluate"])
def test_every_setting_there_is_has_an_option(capsys, command):
    shown = help_of(capsys, command)
    settings = [each.settings() for each in METHODS.values()] + [settings_of(family.rule) for family in FAMILIES]
    for name, field in (item for each in settings for item in each.items()):
        assert f"--{name.replace('_', '-')} " in shown
        assert " ".join(field.metadata["about"].split()[:3]) in shown
    assert command != "generate" or "{" + ",".join(METHODS) + "}" in shown


@dataclass(frozen=True)
class Toy(Vanilla):
    name: ClassVar[str] = "toy"
    about: ClassVar[str] = "100% of nothing"

    toy_pace: int = setting(3, 1, 9, "how 100% of it goes")
    toy_mode: str = choice("slow", ("slow", "quick"), "which of both")
    toy_noise: bool = choice(True, (True, False), "whether it makes noise")


def test_a_new_method_is_offered_with_its_settings(generate, capsys, monkeypatch, small):
    monkeypatch.setitem(METHODS, "toy", Toy)
    shown = help_of(capsys, "generate")
    assert "{" + ",".join(METHODS) + "}" in shown and "toy: 100% of nothing" in " ".join(shown.split())
    assert "settings of the toy method" in shown and "{slow,quick}" in shown and "--no-toy-noise" in shown
    generate("--method", "toy", "--toy-pace", 4, "--toy-mode", "quick", "--no-toy-noise", "--report", "run.json")
    report = json.loads(Path("run.json").read_text())
    assert [report[name] for name in ("method", "toy_pace", "toy_mode", "toy_noise")] == ["toy", 4, "quick", False]
    options = ["--model", small.folder, "--head", small.head, "--device", "cpu", "--rounds", 1]
    assert migm("compare", PROMPT, *options) == 0
    assert re.search(r"\| toy \| 8 \| 8 \|.*\| 100.0% \|", capsys.readouterr().out)
    assert migm("compare", PROMPT, *options, "--methods", "toy toy-pace=10") == 2
    assert "toy_pace is 10" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train-tokenizer", "train-base", "collect", "train-head", "evaluate"])
def test_every_training_command_explains_itself(capsys, command):
    assert "FOLDER" in help_of(capsys, command)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_do_not_wait_for_torch(option):
    code = f"import sys, migm_core.cli as cli\ntry: cli.main(['{option}'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV)
    assert done.returncode == 0 and done.stdout.endswith("False\n")


def test_the_version_is_the_same_everywhere(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"migm {migm_core.__version__}\n"
    assert f'\nversion = "{migm_core.__version__}"\n' in (REPOSITORY / "pyproject.toml").read_text()
    assert f"\n## [{migm_core.__version__}]" in (REPOSITORY / "CHANGELOG.md").read_text()


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
def test_ctrl_c_ends_a_run_and_says_what_was_kept(small, tmp_path, capsys):
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        status = migm("generate", PROMPT, "--model", small.folder, "--steps", 1024, "--size", "256x256", "--out", tmp_path / "x.png")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert status == 130
    assert capsys.readouterr() == ("", "migm: Stopped. What was finished is kept, and the file that was being written is as it was before.\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="closes streams by a shell")
@pytest.mark.parametrize(("streams", "encoding"), [("", "cp1252"), ("", "ascii"), (">&-", "utf-8"), (">&- 2>&-", "cp1252"), ("| true", "utf-8")])
def test_no_stream_makes_a_good_run_fail(small, tmp_path, streams, encoding):
    model = shutil.copytree(small.folder, tmp_path / "кот")  # letters that cp1252 lacks
    command = [sys.executable, "-m", "migm_core", "inspect", str(model)]
    shell = f'"$@" {streams}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", shell, "bash", *command], capture_output=True, env={**ENV, "PYTHONIOENCODING": encoding})
    assert done.stderr == b"" and done.returncode in ((0, 1) if "true" in streams else (0,))


@pytest.fixture
def maskgit(tmp_path):
    """Options for the recorded MaskGIT and its head: 10 classes without names, 24x24 pixels."""
    data = REPOSITORY / "tests" / "data" / "maskgit"
    folder = tmp_path / "maskgit"
    shutil.copytree(data / "vqgan", folder / "VQGAN")
    shutil.copy(data / "MaskGIT_ImageNet_tiny.pth", folder)
    (folder / "config.json").write_text(json.dumps({"n_heads": json.loads((data / "meta.json").read_text())["config"]["n_heads"]}))
    return ["--model", folder, "--head", data / "maskgit-shortcut.pth", "--device", "cpu"]


def test_classes_by_number_with_the_settings_of_their_family(maskgit, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert migm("generate", "3", *maskgit, "--budget", 4, "--choice-temperature", 2, "--no-guidance-ramp", "--report", "run.json") == 0
    report, image = json.loads(Path("run.json").read_text()), Image.open("migm.png")
    assert image.size == (24, 24) and image.text["Description"] == "3"
    said = json.loads(image.text["migm"])
    of_rule = {"schedule": "arccos", "guidance_ramp": False, "softmax_temperature": 1.0, "choice_temperature": 2.0, "randomize": "linear"}
    for values in (report, said):
        assert of_rule.items() <= values.items() and "temperature" not in values and values["budget"] == 4
    assert report["family"] == "maskgit" and len(report["full_steps"]) == 4

    assert migm("generate", "3, 5; 3", *maskgit, "--batch", 2, "--report", "run.json") == 0
    report = json.loads(Path("run.json").read_text())
    assert [(image["path"], image["prompt"], image["seed"]) for image in report["images"]] == [(f"migm-{k}.png", label, k) for k, label in enumerate("353")]
    capsys.readouterr()
    assert migm("generate", "5", *maskgit, "--seed", 1, "--out", "alone.png") == 0
    assert Image.open("alone.png").tobytes() == Image.open("migm-1.png").tobytes()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["10"], "The class 10 does not exist: this model has the classes 0 to 9"),
        (["goldfish"], "The class 'goldfish' is unknown"),
        (["3", "--negative", "5"], "leave the negative prompt out"),
        (["3", "--temperature", "1"], "--temperature is a setting of Lumina-DiMOO, but the model is MaskGIT, which has --schedule, "),
        (["3", "--steps", "1"], "steps"),
        (["3", "--schedule", "magic"], "magic"),
        (["--prompt-file", "classes.txt"], "classes.txt, line 2: The class 12 does not exist"),
    ],
)
def test_what_is_no_class_or_no_setting_of_the_family_is_refused(maskgit, tmp_path, monkeypatch, capsys, options, expected):
    monkeypatch.chdir(tmp_path)
    Path("classes.txt").write_text("3\n12\n")
    assert migm("generate", *options, *maskgit, "--report", "run.json") == 2
    assert expected in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.txt", "maskgit"]


def test_a_setting_that_the_method_does_not_use_is_said(generate, capsys):
    generate("--method", "vanilla", "--budget", 3, "--interval", 2, "--report", "run.json")
    cautions = ["--budget changes nothing with the vanilla method.", "--interval changes nothing with the vanilla method."]
    assert capsys.readouterr().err.splitlines() == [f"migm: {caution}" for caution in cautions]
    assert json.loads(Path("run.json").read_text())["cautions"] == cautions


@pytest.fixture
def hub(small):
    """A hub that has the tiny model, and its head in a repository of another name."""
    server = HubServer()
    files = {path.relative_to(small.folder).as_posix(): path.read_bytes() for path in small.folder.rglob("*") if path.is_file()}
    server.repositories["Some-One/tiny"] = {"main": files}
    server.repositories["Some-One/heads"] = {"main": {"of/tiny.safetensors": small.head.read_bytes()}}
    yield server
    server.close()


def test_models_are_downloaded_by_name_and_run_by_it(hub, tmp_path, pipeline):
    environment = {name: value for name, value in ENV.items() if not name.startswith("HF_") and "proxy" not in name.lower()}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}

    def run(*argv):  # in a process of its own: huggingface_hub reads its environment once
        done = subprocess.run([sys.executable, "-m", "migm_core", *argv], capture_output=True, text=True, env=environment, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    status, printed, _ = run("download", "Some-One/heads:of/tiny.safetensors", "--to", "heads")
    assert (status, printed) == (0, f"{Path('heads/of/tiny.safetensors')}\n") and (tmp_path / "heads/of/tiny.safetensors").is_file()
    names = ["--model", "Some-One/tiny", "--head", "Some-One/heads:of/tiny.safetensors"]
    status, _, said = run("generate", PROMPT, *names, "--dtype", "fp32", "--device", "cpu")
    assert status == 0, said
    image = Image.open(tmp_path / "migm.png")
    assert image.tobytes() == pipeline.generate(PROMPT).images[0].tobytes()
    assert [json.loads(image.text["migm"])[name] for name in ("model", "head")] == names[1::2]
    status, printed, said = run("download", "Some-One/tiny", "--revision", "v9")
    assert (status, printed, said) == (2, "", "migm: Some-One/tiny has no revision v9: expected one of its branches, tags or commits.\n")


def test_an_evaluation_that_cannot_be_written_ends_before_it_begins(tmp_path, capsys):
    out = tmp_path / "nowhere" / "rows.json"
    assert main(["evaluate", str(tmp_path), "--model", "demo", "--prompts", "100000", "--out", str(out)]) == 2
    assert str(out) in capsys.readouterr().err
