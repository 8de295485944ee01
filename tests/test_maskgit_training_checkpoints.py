"""What torch.save wrote for MaskGIT: what of it is read, what is skipped, and what is refused."""

import os
import pickle
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from maskgit_folder import BASE, DATA
from safetensors.torch import load_file

from migm_core.checkpoints import CheckpointError, TensorSource, describe
from migm_core.checkpoints.torch_file import TorchFile


def test_the_optimizers_state_is_not_read():
    file = TorchFile.open(BASE)
    for name in file.shapes:
        file.get(name)
    weights = len(load_file(DATA / "base.safetensors"))
    assert len(file.mapped) == weights
    with zipfile.ZipFile(BASE) as archive:
        assert sum("/data/" in name for name in archive.namelist()) > 2 * weights


def test_changed_bytes_of_the_optimizer_change_nothing(tmp_path):
    """So they are neither read nor checked."""
    state = torch.load(BASE, weights_only=True)
    numbers = next(iter(state["optimizer_state_dict"]["state"].values()))["exp_avg"].numpy().tobytes()
    content = BASE.read_bytes()
    assert content.count(numbers) == 1
    path = tmp_path / BASE.name
    path.write_bytes(content.replace(numbers, b"\xff" * len(numbers)))
    source = TensorSource.open(path)
    assert all(torch.equal(source.get(name), tensor) for name, tensor in state["model_state_dict"].items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("table", ["model_state_dict", "state_dict"])
def test_training_checkpoints_of_either_form(tmp_path, table, zipped):
    whole = torch.arange(24.0).view(4, 6)
    state = {"a": whole[1:, ::2], "b": torch.nn.Parameter(whole.half()), "c": torch.tensor([], dtype=torch.int64), "d": torch.tensor(3)}
    contents = {"epoch": 1, "optimizer_states": [{"state": {0: {"exp_avg": whole}}}], table: state, "none": None, "rates": (0.5, -1, 2**40)}
    torch.save(contents, tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    source = TensorSource.open(tmp_path / "last.ckpt")
    for name, tensor in state.items():
        assert torch.equal(source.get(name), tensor) and source.dtypes[name] == tensor.dtype
    assert torch.equal(source.get("b", (1, 3)), whole[1:3].half())


class Payload:
    """What runs when a pickle of it is loaded."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_nothing_that_a_checkpoint_names_is_imported_or_run(tmp_path, zipped, monkeypatch):
    (tmp_path / "foreign_callback.py").write_text("class Callback:\n    def __init__(self):\n        self.score = 1\n    def __setstate__(self, state):\n        raise RuntimeError\n")
    monkeypatch.syspath_prepend(tmp_path)
    import foreign_callback

    marker = tmp_path / "ran"
    callback = foreign_callback.Callback()
    contents = {"callbacks": {foreign_callback.Callback: callback, "payload": Payload(marker)}, "state_dict": {"a": torch.ones(3)}}
    torch.save(contents, tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    del sys.modules["foreign_callback"]
    assert torch.equal(TensorSource.open(tmp_path / "last.ckpt").get("a"), torch.ones(3))
    assert "foreign_callback" not in sys.modules
    assert not marker.exists()


def test_the_recorded_checkpoint_with_a_callbacks_class_is_read(tmp_path):
    source = TensorSource.open(DATA / "vqgan" / "last_with_callback.ckpt")
    whole = TensorSource.open(DATA / "vqgan" / "last.ckpt")
    assert "decoder.norm_out.weight" in source
    assert all(torch.equal(source.get(name), whole.get(name)) for name in source.shapes)
    assert "pytorch_lightning" not in sys.modules
    assert "image tokenizer (VQGAN)" in describe(DATA / "vqgan" / "last_with_callback.ckpt")


def test_code_in_the_place_of_a_tensor_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(3), "b": Payload(tmp_path / "ran")}}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="an entry 'b' that is no named tensor under 'state_dict'"):
        TensorSource.open(tmp_path / "last.ckpt")
    assert not (tmp_path / "ran").exists()


HUGE = 10**5000  # more digits than Python makes text of


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ({"state_dict": {HUGE: torch.ones(2)}}, "an entry a number of too many digits that is no named tensor under 'state_dict'"),
        ({HUGE: torch.ones(2)}, "no plain PyTorch state dict"),
        ({10**500: {"a": torch.ones(2)}}, "It holds tables under a number of too many digits: save the model's alone"),
    ],
    ids=["table", "tensor", "tables"],
)
def test_a_number_of_any_length_as_a_key_is_refused_in_words(tmp_path, contents, said, zipped):
    torch.save(contents, tmp_path / "last.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as caught:
        TensorSource.open(tmp_path / "last.pth")
    assert str(tmp_path / "last.pth") in str(caught.value) and said in str(caught.value)


@pytest.mark.parametrize("opcode", [b"\x82\x01", b"\x83\x01\x00", b"P0\n", b"\x97"], ids=["EXT1", "EXT2", "PERSID", "NEXT_BUFFER"])
def test_other_instructions_are_refused(tmp_path, opcode):
    path = tmp_path / "last.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("last/data.pkl", b"\x80\x02}X\x0a\x00\x00\x00state_dict" + opcode + b"s.")
    with pytest.raises(CheckpointError, match="damaged"):
        TensorSource.open(path)


def hand_made(path: Path, shape: tuple, stride: tuple, offset: int = 0, count: int = 4, present: int = 4, claimed: int | None = None) -> Path:
    """A checkpoint of one tensor that says what it likes of its numbers, of which so many are present, and its archive of their bytes."""

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (pickle.PersistentLoad, offset, shape, stride, False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", count) if value is pickle.PersistentLoad else None

    pickle.PersistentLoad = object()  # stands for the storage
    try:
        with zipfile.ZipFile(path, "w") as archive:
            with archive.open("last/data.pkl", "w") as file:
                Pickler(file, 2).dump({"state_dict": {"a": Tensor()}})
            archive.writestr("last/data/0", bytes(4 * present))
    finally:
        del pickle.PersistentLoad
    if claimed is not None:
        content = bytearray(path.read_bytes())
        entry = content.rindex(b"PK\x01\x02")
        content[entry + 24 : entry + 28] = claimed.to_bytes(4, "little")
        path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shape": (5,), "stride": (1,)}, "reaches past its numbers"),
        ({"shape": (2, 2), "stride": (3, 1)}, "reaches past its numbers"),
        ({"shape": (4,), "stride": (1,), "offset": 1}, "reaches past its numbers"),
        ({"shape": (4,), "stride": (1,), "present": 3}, "lacks the numbers of a"),
        ({"shape": (4,), "stride": (1,), "present": 1000, "count": 2000, "claimed": 8000}, "lacks the numbers of a"),
        ({"shape": (4,), "stride": (-1,), "offset": 3}, "damaged"),
        ({"shape": (4,), "stride": (1, 1)}, "damaged"),
        ({"shape": (4,), "stride": (1,), "offset": -1}, "damaged"),
    ],
)
def test_a_tensor_past_its_numbers_is_refused(tmp_path, wrong, message):
    with pytest.raises(CheckpointError, match=message):
        TensorSource.open(hand_made(tmp_path / "last.ckpt", **wrong))


@pytest.mark.parametrize("bomb", ["pairs", "order of bytes"])
def test_what_unfolds_to_far_more_than_the_file_is_refused_first(tmp_path, bomb):
    """A list of many references to one long list, where pairs are due; and an entry of a few bytes that inflates to 64 MB."""
    path, count = tmp_path / "last.ckpt", 3000
    many = b"]q\x01(" + b"K\x01" * count + b"e0" + b"]q\x02(" + b"h\x01" * count + b"e"
    pickled = b"\x80\x02ccollections\nOrderedDict\n" + many + b"\x85R." if bomb == "pairs" else b"\x80\x02}."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("last/data.pkl", pickled)
        if bomb == "order of bytes":
            archive.writestr("last/byteorder", bytes(2**26))
    tracemalloc.start()
    try:
        assert TorchFile.open(path) is None
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_a_hand_made_checkpoint_is_read(tmp_path):
    assert torch.equal(TensorSource.open(hand_made(tmp_path / "last.ckpt", (2, 2), (2, 1))).get("a"), torch.zeros(2, 2))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("name", [BASE.name, "vqgan/last.ckpt"])
def test_a_file_that_is_cut_short_is_refused(tmp_path, name, share):
    content = (DATA / name).read_bytes()
    path = tmp_path / Path(name).name
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="damaged"):
        TensorSource.open(path)
