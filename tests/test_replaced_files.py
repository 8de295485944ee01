"""Files that are replaced while a host runs: what the nodes remember of them stays small, and is never of the wrong file."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from nodes_without_host import room
from small_model import make_small_head, make_small_model, small_config

from migm_core.checkpoints import CheckpointError, TensorSource
from migm_core.pipeline import Pipeline


@pytest.fixture
def heads(tmp_path) -> list[Path]:
    return [make_small_head(tmp_path / f"{seed}.safetensors", small_config(), seed=seed) for seed in (1, 2)]


def put(file: Path, place: Path) -> None:
    """Replace a file as it is done safely."""
    new = place.with_suffix(".new")
    shutil.copyfile(file, new)
    os.replace(new, place)


def test_a_head_that_is_replaced_while_it_is_opened_is_not_taken_for_the_new_one(heads, tmp_path, monkeypatch):
    weights = room("host.weights")
    place = tmp_path / "head.safetensors"
    put(heads[0], place)
    monkeypatch.setattr(weights, "heads", lambda: {"head": place})
    opened = weights.TensorSource.open

    def open_and_replace(path):
        source = opened(path)
        put(heads[1], place)
        return source

    monkeypatch.setattr(weights.TensorSource, "open", open_and_replace)
    first = weights.load_head("head")
    monkeypatch.setattr(weights.TensorSource, "open", opened)
    second = weights.load_head("head")
    name = next(name for name, shape in first.source.shapes.items() if len(shape) == 2)
    values = [opened(path).get(name) for path in heads]
    assert torch.equal(first.source.get(name), values[0]) and torch.equal(second.source.get(name), values[1])
    assert weights.load_head("head") is second


def test_what_a_file_holds_is_read_anew_when_it_changes_and_remembered_once(heads, tmp_path):
    folders = room("host.folders")
    place, remembered = tmp_path / "models.safetensors", len(folders._held)
    for turn in range(5):
        put(heads[turn % 2], place)
        assert folders._holds(place)
    place.write_bytes((2).to_bytes(8, "little") + b"{}")
    assert folders._holds(place) == frozenset()
    assert len(folders._held) == remembered + 1


def test_the_step_times_of_the_latest_sizes_are_remembered(monkeypatch):
    times = room("step_times")
    monkeypatch.setattr(times, "_seconds", {})
    sizes = [times.Size(("file", when), 16, 2) for when in range(times.MOST + 50)]
    for size in sizes:
        times.remember(size, 1, {"full": 1.0})
        times.remember(sizes[0], 1, {"full": 2.0})
    assert len(times._seconds) == times.MOST
    assert times.recall(sizes[0]) == {"full": 2.0} and times.recall(sizes[-1]) == {"full": 1.0} and times.recall(sizes[1]) == {}


def test_text_is_not_read_with_rows_of_another_model(copy, tmp_path):
    """The rows of the output projection that only text needs are read when they are needed."""
    other = make_small_model(tmp_path / "other", seed=5)
    weights = copy.folder / "model.safetensors"
    early, late = (Pipeline.load(copy.folder, None, dtype="fp32", device="cpu") for _ in range(2))
    settings = {"length": 8, "block": 8, "stop": "never"}
    answer = early.understand("large red house", **settings)
    put(other.folder / "model.safetensors", weights)
    assert early.understand("large red house", **settings).text == answer.text
    with pytest.raises(CheckpointError, match="model.* was replaced after the model was loaded.*Load it again"):
        late.understand("large red house", **settings)
    assert Pipeline.load(copy.folder, None, dtype="fp32", device="cpu").understand("large red house", **settings).answer


@pytest.mark.skipif(os.name != "posix", reason="a file that is open cannot be cut short")
def test_without_mmap_an_answer_needs_its_file_no_more(copy):
    pipeline = Pipeline.load(copy.folder, None, dtype="fp32", device="cpu", mmap=False)
    settings = {"length": 8, "block": 8, "stop": "never"}
    answer = pipeline.understand("large red house", **settings)
    os.truncate(copy.folder / "model.safetensors", 0)  # with the rows of text mapped the process would end at the next answer
    assert pipeline.understand("large red house", **settings).text == answer.text


def test_what_torch_saved_is_read_from_the_file_that_was_opened(tmp_path):
    place, files = tmp_path / "place.pth", [tmp_path / "one.pth", tmp_path / "two.pth"]
    tables = [{"model_state_dict": {"weight": torch.arange(6.0) + seed}, "padding": "x" * 500 * seed} for seed in (0, 1)]
    for table, file in zip(tables, files):
        torch.save(table, file)
    put(files[0], place)
    source = TensorSource.open(place)
    put(files[1], place)
    assert torch.equal(source.get("weight"), tables[0]["model_state_dict"]["weight"])
    assert torch.equal(TensorSource.open(place).get("weight"), tables[1]["model_state_dict"]["weight"])
