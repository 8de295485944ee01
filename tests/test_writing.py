"""What is written is written whole, beside what was there; sources, strangers' files and second writers are left alone."""

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_model import PROMPT, shard

from migm_core.checkpoints import convert, load_checkpoint
from migm_core.checkpoints.write import Pending, write_tensors
from migm_core.cli import main
from migm_core.families.lumina_dimoo.write import save_checkpoint
from migm_core.outputs import write_report
from migm_core.training.run import Run
from migm_core.writing import append_line, locked, replacing

ROOT = Path(__file__).resolve().parents[1]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def full_disk():
    """Files end after 2,000 bytes, with an error as a full disk gives it."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# The target.


def test_a_file_appears_whole_and_with_the_users_permissions(tmp_path):
    target = tmp_path / "x.json"
    before = os.umask(0o027)
    try:
        with replacing(target) as file:
            file.write(b"new")
            assert not target.exists()
    finally:
        os.umask(before)
    assert contents(tmp_path) == {"x.json": b"new"}
    if os.name == "posix":
        assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.name != "posix", reason="needs permissions for owner, group and others")
def test_a_file_that_was_there_hands_on_its_permissions(tmp_path):
    (tmp_path / "x.json").write_text("old")
    (tmp_path / "x.json").chmod(0o600)
    write_report(tmp_path / "x.json", {})
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_nothing_but_a_file_is_written_over(tmp_path, small, capsys):
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe")  # as a device would be; a test may not make one
    for suffix in ("safetensors", "png", "json"):
        (tmp_path / f"pipe.{suffix}").symlink_to(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(OSError, match="expected a file") as refused:
            convert(small.head, tmp_path / f"{name}.safetensors")
        assert refused.value.filename == str(tmp_path / f"{name}.safetensors")
    for options in (["--out", str(tmp_path / "pipe.png")], ["--report", str(tmp_path / "pipe.json")]):
        assert main(["generate", "a cat", "--model", str(small.folder), *options]) == 2
        assert "a device or a pipe" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_on_the_way_leaves_what_was_there(tmp_path, error):
    (tmp_path / "x.json").write_text("old")
    with pytest.raises(error), replacing(tmp_path / "x.json") as file:
        file.write(b"new")
        raise error
    assert contents(tmp_path) == {"x.json": b"old"}


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_what_a_killed_writer_left_is_removed_by_the_next_of_the_same_file(tmp_path):
    script = "import sys, time; from migm_core.writing import replacing\nwith replacing(sys.argv[1]) as file: file.write(b'x'); print(flush=True); time.sleep(60)"
    writers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "x.json")], stdout=subprocess.PIPE, cwd=ROOT) for _ in range(2)]
    try:
        for writer in writers:
            writer.stdout.readline()
        assert len(contents(tmp_path)) == 2
        writers[0].kill()
        writers[0].wait()
        (tmp_path / "other.json.0123abcd.partial").write_text("of another file")
        write_report(tmp_path / "x.json", {})
        left = sorted(contents(tmp_path))
        assert len(left) == 3 and left[0] == "other.json.0123abcd.partial" and left[1] == "x.json"  # the living one's is the third
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            writer.stdout.close()


def test_a_folder_made_for_what_fails_is_removed(tmp_path):
    with pytest.raises(ValueError), locked(tmp_path / "a" / "b"):
        raise ValueError
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError), locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").write_text("")
        raise ValueError
    assert sorted(contents(tmp_path)) == ["a/b/kept", "a/b/lock"]
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError), locked(tmp_path / "c"):
        raise ValueError
    assert (tmp_path / "c").is_dir()


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.json").write_text("old")
    (tmp_path / "x.json").symlink_to(tmp_path / "real" / "x.json")
    write_report(tmp_path / "x.json", {"a": 1})
    assert (tmp_path / "x.json").is_symlink()
    assert json.loads((tmp_path / "real" / "x.json").read_text()) == {"a": 1}


def test_the_other_name_of_a_file_keeps_its_content(tmp_path):
    (tmp_path / "x.json").write_text("old")
    os.link(tmp_path / "x.json", tmp_path / "other")
    write_report(tmp_path / "x.json", {})
    assert (tmp_path / "other").read_text() == "old"


def test_users_files_of_like_names_stay(tmp_path, small):
    names = ["head.safetensors.partial", "checkpoint.partial", "head.partial", "trajectory-000000.partial"]
    for name in names:
        (tmp_path / name).write_text("precious")
    convert(small.head, tmp_path / "head.safetensors")
    Run(tmp_path, steps=1).save({})
    assert all((tmp_path / name).read_text() == "precious" for name in names)
    assert len(contents(tmp_path)) == len(names) + 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written_is_not_swapped_away(tmp_path):
    (tmp_path / "x.json").write_text("old")
    (tmp_path / "x.json").chmod(0o400)
    with pytest.raises(PermissionError, match=re.escape(str(tmp_path / "x.json"))):
        write_report(tmp_path / "x.json", {})
    assert contents(tmp_path) == {"x.json": b"old"}


def test_a_name_as_long_as_a_name_may_be(tmp_path):
    name = "ä" * 125 + ".json"
    write_report(tmp_path / name, {})
    assert list(contents(tmp_path)) == [name]


def test_a_file_name_that_is_no_text_is_reported(tmp_path):
    write_report(tmp_path / "x.json", {"images": ["\udcff.png"], "prompt": "♥"})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"images": ["\udcff.png"], "prompt": "♥"}


# A full disk.


def _picture(path):
    from migm_core import Result, Settings
    from migm_core.families.lumina_dimoo.rule import LuminaRule
    from migm_core.outputs import save_images

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    save_images(Result(None, [noise], Settings(64, 64, 2, 0.0, LuminaRule()), 0.0, [], 0, torch.zeros(1), [0]), [path], {"prompt": "x"})


def _training(path):
    run = Run(path.parent, steps=1)
    assert run.path == path
    run.save({"model": torch.nn.Linear(1, 5000)})


WRITERS = {
    "x.png": _picture,
    "x.json": lambda path: write_report(path, ["x" * 5000]),
    "x.safetensors": lambda path: write_tensors(path, {"a": torch.zeros(5000)}, {}),
    "checkpoint.pt": _training,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_what_was_there_and_the_file_is_named(tmp_path, name):
    target = tmp_path / name
    target.write_text("precious")
    with full_disk(), pytest.raises(OSError) as caught:
        WRITERS[name](target)
    assert caught.value.filename == str(target)
    assert contents(tmp_path) == {name: b"precious"}
    WRITERS[name](target)
    assert list(contents(tmp_path)) == [name] and target.stat().st_size > 2000


def test_a_full_disk_leaves_a_log_and_names_it(tmp_path):
    append_line(tmp_path / "log.jsonl", "one")
    with full_disk(), pytest.raises(OSError) as caught:
        append_line(tmp_path / "log.jsonl", "x" * 3000)
    assert caught.value.filename == str(tmp_path / "log.jsonl")


def test_a_checkpoint_on_a_full_disk_leaves_the_whole_of_the_old_one(copy):
    old = contents(copy.folder)
    checkpoint = load_checkpoint(copy.folder, output_rows="all")
    with full_disk(), pytest.raises(OSError) as caught:
        save_checkpoint(copy.folder, checkpoint.base, checkpoint.image_tokenizer, "{}", {})
    assert caught.value.filename == str(copy.folder / "model.safetensors")
    assert contents(copy.folder) == old


def test_the_command_line_names_the_picture(small, tmp_path, capsys, monkeypatch):
    target = tmp_path / "x.png"
    target.write_text("precious")
    import migm_core.outputs

    save = migm_core.outputs.save_images

    def full(*args):
        with full_disk():
            save(*args)

    monkeypatch.setattr(migm_core.outputs, "save_images", full)
    assert main(["generate", PROMPT, "--model", str(small.folder), "--size", "64x64", "--steps", "2", "--out", str(target), "--device", "cpu"]) == 2
    assert re.fullmatch(rf"migm: {re.escape(str(target))}: [A-Z][a-z ]+\.\n", capsys.readouterr().err)
    assert contents(tmp_path) == {"x.png": b"precious"}


# The source.


@pytest.fixture
def sharded(copy):
    shard(copy.folder)
    return copy.folder


def _targets(folder: Path, elsewhere: Path):
    """Each way to name one of a folder's files as a target."""
    shards = sorted(folder.glob("model-*.safetensors"))
    yield shards[0]
    yield folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    for name, source in (("a", shards[1]), ("b", folder / "tokenizer.json"), ("c", folder / "config.json"), ("d", folder / "vqvae" / "config.json")):
        (elsewhere / f"{name}1.safetensors").symlink_to(source)
        os.link(source, elsewhere / f"{name}2.safetensors")
        yield from (elsewhere / f"{name}{k}.safetensors" for k in (1, 2))


def test_no_conversion_writes_over_its_source(sharded, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    before = contents(sharded)
    targets = list(_targets(sharded, elsewhere))
    for target in targets:
        with pytest.raises(ValueError, match="source's file"):
            convert(sharded, target)
    with pytest.raises(ValueError, match="source's file"):
        convert(sharded / "model-00001-of-00003.safetensors", sharded / "model-00002-of-00003.safetensors")
    assert contents(sharded) == before
    convert(sharded, elsewhere / "new.safetensors")
    convert(sharded, elsewhere / "new.safetensors")  # a former target may be written over


def test_a_folder_is_not_written_over_by_its_own_single_file(copy, capsys):
    before = contents(copy.folder)
    assert main(["convert", str(copy.folder), str(copy.folder / "model.safetensors")]) == 2
    assert "Choose another path" in capsys.readouterr().err
    assert contents(copy.folder) == before


# Second writers.


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    target = tmp_path / "x.safetensors"
    meet = threading.Barrier(2)

    def make(value):
        meet.wait(30)
        return torch.full((1000,), value)

    tensors = [{f"t{k}": Pending((1000,), torch.float32, lambda value=value: make(value)) for k in range(5)} for value in (1.0, 2.0)]
    threads = [threading.Thread(target=write_tensors, args=(target, part, {})) for part in tensors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = torch.cat(list(load_file(target).values()))
    assert len(written) == 5000 and len(written.unique()) == 1
    assert list(contents(tmp_path)) == ["x.safetensors"]


HOLDS = """
import sys, time
from migm_core.writing import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_in_a_folder_is_refused_until_the_first_ends_even_if_killed(tmp_path):
    def train(folder) -> str:
        with Run(folder, steps=1):
            return "trained"

    other = subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
            train(tmp_path)
    finally:
        other.kill()
        other.communicate()
    assert train(tmp_path) == "trained"


def test_a_lock_is_let_go_of_when_a_run_fails_while_its_error_lives_on(tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught, locked(tmp_path):
        with pytest.raises(ValueError, match="another run"), locked(tmp_path):
            pass
        raise KeyboardInterrupt
    with locked(tmp_path):
        assert caught.value is not None


def test_a_failed_conversion_leaves_its_target(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    (tmp_path / "out.safetensors").write_text("precious")
    with pytest.raises(ValueError):
        convert(tmp_path / "a.safetensors", tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_text() == "precious"
