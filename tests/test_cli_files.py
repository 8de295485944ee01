"""`migm inspect`, `convert` and `download`, and models by the name of their repository."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ENV, migm
from hub_server import HubServer
from PIL import Image
from safetensors.torch import load_file
from small_model import PROMPT

from migm_core import hub as hub_module


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
