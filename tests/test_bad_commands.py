"""What is refused on the command line: status 2, one line on stderr, nothing on stdout, nothing written."""

import re
from pathlib import Path

import pytest
from small_model import PROMPT, edit_tensors

from migm_core.cli import main

WEIGHTS = "model.safetensors"


def complaint(capsys, *argv) -> str:
    assert main([str(part) for part in argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"migm: [^\n]+\n", printed.err), printed.err
    assert "Traceback" not in printed.err
    return printed.err


@pytest.fixture
def generate(small, tmp_path, capsys):
    """Run ``migm generate`` with the tiny model; gives its complaint and sees that it wrote nothing."""
    folder = tmp_path / "out"
    folder.mkdir()

    def run(*options, model=small.folder, head=small.head) -> str:
        line = complaint(capsys, "generate", PROMPT, "--model", model, "--head", head, "--out", folder / "image.png", *options)
        assert not list(folder.iterdir())
        return line

    return run


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--size", "36x32"], "width is 36"),
        (["--size", "0x0"], "width is 0"),
        (["--size", "800000x800000"], "limit"),
        (["--size", "large"], "'large' is no size"),
        (["--budget", "1"], "budget is 1"),
        (["--budget", "9"], "budget is 9"),
        (["--steps", "0"], "steps is 0"),
        (["--steps", "many"], "many"),
        (["--temperature", "-1"], "temperature is -1"),
        (["--cfg", "nan"], "is nan, but must be a number from 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--seed", str(2**64)], f"seed is {2**64}"),
        (["--batch", "0"], "batch is 0"),
        (["--batch", "1000000000"], "batch is 1000000000"),
        (["--method", "magic"], "magic"),
        (["--device", "moon"], "moon"),
        (["--dtype", "int4"], "int4"),
        (["--head", "none", "--method", "shortcut"], "needs a shortcut head"),
        (["--moon"], "--moon"),
    ],
)
def test_the_command_line_refuses_bad_settings(generate, options, expected):
    assert expected in generate(*options)


def test_the_command_line_names_bad_files(generate, copy, tmp_path):
    assert "nowhere does not exist" in generate(model=tmp_path / "nowhere")
    assert "nowhere.pth does not exist" in generate(head=tmp_path / "nowhere.pth")
    edit_tensors(copy.head, lambda tensors: tensors["proj_in.weight"].fill_(float("nan")))
    assert "proj_in.weight" in generate(head=copy.head)
    (copy.folder / WEIGHTS).write_bytes(b"\0" * 100)
    assert WEIGHTS in generate(model=copy.folder)


def test_the_command_line_refuses_what_it_cannot_read(capsys, tmp_path, small):
    assert "does not exist" in complaint(capsys, "inspect", tmp_path / "nowhere")
    assert "ends in .safetensors" in complaint(capsys, "convert", small.folder, tmp_path / "out.bin")
    assert "source itself" in complaint(capsys, "convert", small.head, small.head)
    file = tmp_path / "file"
    file.write_text("")
    assert str(file) in complaint(capsys, "convert", small.head, file / "out.safetensors")
    assert "COMMAND" in complaint(capsys)


@pytest.mark.parametrize("option", ["--out", "--report"])
def test_outputs_that_cannot_be_written_are_found_before_anything_is_loaded(capsys, tmp_path, option):
    suffix = {"--out": ".png", "--report": ".json"}[option]
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / f"folder{suffix}").mkdir()
    for path, reason in [
        (tmp_path / "nowhere" / f"x{suffix}", "no folder"),
        (file / f"x{suffix}", "no folder"),
        (tmp_path / f"folder{suffix}", "it is a folder"),
        (tmp_path / "x.gif", f"ends in {suffix}"),
    ]:
        # A model that does not exist, either, would be the complaint if it were looked for first.
        line = complaint(capsys, "generate", PROMPT, "--model", tmp_path / "no-model", "--out", tmp_path / "good.png", option, path)
        assert str(path) in line and reason in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", f"folder{suffix}"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which even root cannot write")
def test_a_folder_that_takes_no_files(capsys, tmp_path):
    line = complaint(capsys, "generate", PROMPT, "--model", tmp_path / "no-model", "--out", "/proc/image.png")
    assert "/proc/image.png cannot be written" in line


def test_a_folder_in_the_place_of_an_image_of_a_batch(generate, tmp_path):
    (tmp_path / "name-1.png").mkdir()
    assert "name-1.png" in generate("--batch", 2, "--out", tmp_path / "name.png")
    assert not (tmp_path / "name-0.png").exists()
