"""What the loaders list, against a stand-in for the host's model folders: files that the system does not give, and names."""

import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nodes_without_host import room
from safetensors.torch import load_file

from migm_core.checkpoints import TensorSource

BUNDLED = ("bundled demo", "bundled demo (MaskGIT)")


@pytest.fixture
def files(monkeypatch, tmp_path, small):
    """The room, over a model folder with the tiny checkpoint and its head in it."""
    room_ = room("host.folders")
    root = tmp_path / "migm"
    shutil.copytree(small.folder, root / "small")
    shutil.copy(small.head, root / "head.safetensors")

    def names(folder):
        return [str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.suffix] if folder == "migm" else []

    host = SimpleNamespace(
        get_filename_list=names,
        get_folder_paths=lambda folder: [str(root)] if folder == "migm" else [],
        get_full_path=lambda folder, name: str(root / name),
    )
    monkeypatch.setattr(room_, "folder_paths", host)
    room_._skipped.clear()
    room_.root = root
    return room_


def refuse(monkeypatch, name: str, *calls: str) -> None:
    """Have the system refuse some calls on paths of a name, as it does without permission: root, who may run the tests, has it always."""
    for call in calls:
        usual = getattr(Path, call)

        def refusing(self, *args, usual=usual, **options):
            if self.name == name:
                raise PermissionError(13, "Permission denied", str(self))
            return usual(self, *args, **options)

        monkeypatch.setattr(Path, call, refusing)


@pytest.mark.parametrize("calls", [("open",), ("is_file", "open", "stat")], ids=str)
def test_a_file_without_permission_is_left_out_and_logged_once(files, monkeypatch, caplog, calls):
    shutil.copy(files.root / "head.safetensors", files.root / "locked.safetensors")
    refuse(monkeypatch, "locked.safetensors", *calls)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert list(files.models()) == [*BUNDLED, "small"]
            assert list(files.heads()) == [*BUNDLED, "head.safetensors"]
    (line,) = [record.message for record in caplog.records if "locked.safetensors" in record.message]
    assert "Permission denied" in line


def test_a_folder_that_takes_the_hosts_list_away_does_not_take_ours(files, monkeypatch, caplog):
    def stale(folder):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(files.folder_paths, "get_filename_list", stale)
    assert list(files.models()) == [*BUNDLED, "small"] and list(files.heads()) == [*BUNDLED, "head.safetensors"]
    assert "Stale file handle" in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="names of files are text here")
def test_a_name_that_is_no_text_is_left_out_and_logged(files, caplog):
    shutil.copy(files.root / "head.safetensors", files.root / os.fsdecode(b"\xff.safetensors"))
    assert set(files.heads()) == {*BUNDLED, "head.safetensors"}
    (message,) = [record.getMessage() for record in caplog.records]
    message.encode()  # as the host's log does
    assert "\\udcff.safetensors is left out" in message


def test_a_checkpoint_in_a_model_folder_itself_leaves_the_heads_beside_it(files, small):
    shutil.copytree(small.folder, files.root, dirs_exist_ok=True)
    (files.root / "dimoo-shortcut.pth").write_bytes(b"\x80")
    (files.root / "pytorch_model.bin").write_bytes(b"\x80")
    assert files.models()["migm"] == files.root
    assert list(files.heads()) == [*BUNDLED, "dimoo-shortcut.pth", "head.safetensors"]


def test_names_and_suffixes_in_other_letters_are_listed(files):
    os.rename(files.root / "head.safetensors", files.root / "HEAD.SAFETENSORS")
    assert list(files.heads()) == [*BUNDLED, "HEAD.SAFETENSORS"]


def test_a_repository_in_the_hub_cache_has_its_own_name_once(files, small):
    cache = files.root / "models--Alpha-VLLM--Lumina-DiMOO"
    for commit in ("0a" * 20, "ff" * 20):
        shutil.copytree(small.folder, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("ff" * 20)
    models = files.models()
    assert models["Alpha-VLLM/Lumina-DiMOO"] == cache / "snapshots" / ("ff" * 20)
    assert "Alpha-VLLM/Lumina-DiMOO 0a0a0a0" in models and len(models) == 5


def test_a_stamp_changes_with_a_file_of_the_model_and_with_no_other(files):
    folder = files.root / "small"
    before = files.fingerprint(folder)
    (folder / "deep").mkdir()
    (folder / "deep/other.txt").write_text("x")
    assert files.fingerprint(folder) == before
    os.utime(folder / "vqvae/config.json", ns=(1, 1))
    assert files.fingerprint(folder) != before
    assert files.fingerprint(files.root / "gone.safetensors") == ()


MASKGIT = Path(__file__).parent / "data/maskgit"


@pytest.fixture
def families(files) -> tuple:
    """Lumina-DiMOO and MaskGIT, as the loaders have them."""
    loaders = room("loaders")
    return loaders.LoadLumina.family, loaders.LoadMaskGIT.family


def test_each_family_lists_its_models_and_all_heads_stand_in_one_list(files, families):
    lumina, maskgit = families
    shutil.copy(MASKGIT / "MaskGIT_ImageNet_tiny.pth", files.root / "base.pth")
    shutil.copy(MASKGIT / "maskgit-shortcut.pth", files.root / "maskgit-shortcut.pth")
    assert list(files.models(maskgit)) == [BUNDLED[1], "base.pth"]
    assert list(files.models(lumina)) == [BUNDLED[0], "small"]
    assert list(files.models()) == [*BUNDLED, "small", "base.pth"]
    assert list(files.heads()) == [*BUNDLED, "head.safetensors", "maskgit-shortcut.pth"]
    with pytest.raises(ValueError, match="'base.pth' is a model of the family MaskGIT. Load it with MIGM Load MaskGIT."):
        files.chosen("base.pth", files.models(lumina), "model")


@pytest.mark.parametrize("large", [False, True])
def test_what_an_old_file_lists_is_known_without_reading_it_whole(files, families, monkeypatch, large):
    """Those of torch before 1.6: a base, a head, a table in a table, which is offered as a head that loading will tell of, and safetensors by another name."""
    if large:
        monkeypatch.setattr(files, "LARGEST_READ", 100)
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a file is read whole"))
    else:
        monkeypatch.setattr(torch, "load", lambda path, *_, usual=torch.load, **options: usual(path, **options) if path.name == "nested.pth" else pytest.fail(path.name))
    base = TensorSource.open(MASKGIT / "MaskGIT_ImageNet_tiny.pth")
    head = load_file(files.root / "head.safetensors")
    for name, contents in {"base.pth": {name: base.get(name) for name in base.shapes}, "old.pth": head, "nested.pth": {"params": head}}.items():
        torch.save(contents, files.root / name, _use_new_zipfile_serialization=False)
    shutil.copy(files.root / "head.safetensors", files.root / "renamed.pth")
    lumina, maskgit = families
    assert list(files.models(maskgit)) == [BUNDLED[1], "base.pth"] and list(files.models(lumina)) == [BUNDLED[0], "small"]
    assert list(files.heads()) == [*BUNDLED, "head.safetensors", "nested.pth", "old.pth", "renamed.pth"]


def test_a_maskgits_fingerprint_changes_with_the_files_beside_it(files):
    shutil.copytree(MASKGIT / "vqgan", files.root / "VQGAN")
    base = Path(shutil.copy(MASKGIT / "MaskGIT_ImageNet_tiny.pth", files.root / "base.pth"))
    before = files.fingerprint(base)
    os.utime(files.root / "VQGAN/model.yaml", ns=(1, 1))
    assert files.fingerprint(base) != before
    for name in ("config.json", "generation_config.json"):
        before = files.fingerprint(base)
        (files.root / name).write_text("{}")
        assert files.fingerprint(base) != before
