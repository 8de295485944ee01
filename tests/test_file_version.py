"""What is written says the version of its form; what a newer version has written is refused."""

import re

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from migm_core.checkpoints import CheckpointError, convert, load_checkpoint, load_head
from migm_core.cli import main


def metadata(path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_all_that_is_written_says_its_version(small, tmp_path, pipeline):
    convert(small.folder, tmp_path / "model.safetensors")
    convert(small.head, tmp_path / "head.safetensors")
    for path in (small.folder / "model.safetensors", small.folder / "vqvae" / "diffusion_pytorch_model.safetensors", small.head, *tmp_path.iterdir()):
        assert metadata(path)["migm_format"] == "1"


def test_files_without_a_version_load(small, tmp_path, pipeline):
    said = metadata(small.head)
    del said["migm_format"]
    save_file(load_file(small.head), tmp_path / "head.safetensors", said)
    assert load_head(tmp_path / "head.safetensors", pipeline.checkpoint.base.config).config == pipeline.head.config


@pytest.mark.parametrize("version", ["2", "1.5", "new"])
def test_a_newer_version_is_refused(small, tmp_path, pipeline, version, capsys):
    convert(small.folder, tmp_path / "model.safetensors")
    for source, load in ((tmp_path / "model.safetensors", load_checkpoint), (small.head, lambda path: load_head(path, pipeline.checkpoint.base.config))):
        newer = tmp_path / f"newer-{source.name}"
        save_file(load_file(source), newer, {**metadata(source), "migm_format": version})
        expected = f"{newer}: migm_format is {version!r} in its metadata, but this version reads 1 at most. Update MIGM-Shortcut."
        with pytest.raises(CheckpointError, match=re.escape(expected)):
            load(newer)
        assert main(["inspect", str(newer)]) == 2
        assert capsys.readouterr().err == f"migm: {expected}\n"
