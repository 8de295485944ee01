"""A family is its folder and one line: a toy family in the registry is found wherever families are."""

import pytest
import torch
from safetensors.torch import save_file
from toy_family import ToyFamily
from toy_method import Toy

from migm_core import families
from migm_core.checkpoints import CheckpointError, convert, describe, load_checkpoint
from migm_core.pipeline import Pipeline


@pytest.fixture
def toy_file(monkeypatch, tmp_path):
    """A file of the toy family, after its one line in the registry."""
    save_file({"toy.weight": torch.ones(3)}, tmp_path / "toy.safetensors")
    with pytest.raises(CheckpointError, match="none of the kinds known here: its first tensors are toy.weight. Expected a checkpoint of"):
        load_checkpoint(tmp_path / "toy.safetensors")
    monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, ToyFamily()))
    return tmp_path / "toy.safetensors"


def test_a_family_is_detected_described_and_converted(toy_file, tmp_path):
    family, source = families.detect(toy_file)
    assert family.name == "toy" and source.shapes == {"toy.weight": (3,)}
    assert describe(toy_file) == f"{toy_file}: a toy"
    convert(toy_file, tmp_path / "other.safetensors")
    assert describe(tmp_path / "other.safetensors").endswith("a toy")


def test_a_family_generates_with_the_methods_that_need_no_head(toy_file, capsys):
    pipeline = Pipeline.load(toy_file, device="cpu")
    for method in (None, "vanilla", Toy(every=2)):
        result = pipeline.generate([3, 1], method=method)
        assert [codes.unique().tolist() for codes in result.tokens] == [[3], [1]]
        assert result.images[0].size == (8, 4)
    with pytest.raises(ValueError, match="needs a shortcut head"):
        pipeline.generate(3, method="shortcut")


def test_a_head_of_another_family_is_refused_in_words(toy_file, small):
    with pytest.raises(CheckpointError, match="is a shortcut head for Lumina-DiMOO, but the base is of Toy"):
        Pipeline.load(toy_file, small.head, device="cpu")


def test_others_files_stay_theirs(toy_file, small):
    assert families.detect(small.folder)[0].name == "lumina-dimoo"
