"""Files that are something else than their names say are called what they are, with what to do; cache folders and odd cases are found."""

import gzip
import io
import os
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file, save_file
from small_model import PROMPT, make_small_head, small_config

from migm_core.checkpoints import CheckpointError, TensorSource, convert, describe, load_checkpoint, load_head
from migm_core.cli import main
from migm_core.pipeline import Pipeline

WEIGHTS, IMAGE_TOKENIZER = "model.safetensors", "vqvae/diffusion_pytorch_model.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 16400000000\n"
PAGE = b"\n<!DOCTYPE html>\n<html class=''><head><title>model.safetensors</title>"


def archive(kind: str) -> bytes:
    content = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(content, "w") as file:
            file.writestr("model.safetensors", b"x" * 1000)
    elif kind == "tar":
        with tarfile.open(fileobj=content, mode="w") as file:
            file.addfile(tarfile.TarInfo("model.safetensors"))
    else:
        return gzip.compress(b"x" * 1000)
    return content.getvalue()


def state_dict(**how) -> bytes:
    content = io.BytesIO()
    torch.save({"a": torch.ones(3)}, content, **how)
    return content.getvalue()


OTHER_THINGS = {
    "a pointer": (POINTER, "Git LFS pointer", "git lfs pull"),
    "a newer pointer": (b"# xet version 0\nfilesize = 3\n", "Git LFS pointer", "/resolve/"),
    "a page": (PAGE, "saved web page", "/resolve/"),
    "a page of XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "saved web page", "/resolve/"),
    "words": (b"Entry not found", "text that begins with 'Entry not found'", "download it again"),
    "an answer": (b'{"error":"Repository not found"}', "Repository not found", "download it again"),
    "long words": ("ä".encode() * 2000, "text that begins with", "download it again"),
    "nothing": (b"", "empty", "download it again"),
    "zeros": (bytes(4096), "zeros", "download it again"),
    "a zip": (archive("zip"), "a zip archive", "unpack"),
    "a tar": (archive("tar"), "a tar archive", "unpack"),
    "a gzip": (archive("gzip"), "a gzip archive", "unpack"),
    "a GGUF": (b"GGUF\3\0\0\0" + bytes(64), "a GGUF file", ".gguf"),
    "a state dict": (state_dict(), "a PyTorch file", ".pth"),
    "an older state dict": (state_dict(_use_new_zipfile_serialization=False), "a PyTorch file", ".pth"),
}


@pytest.mark.parametrize("file", [WEIGHTS, IMAGE_TOKENIZER])
@pytest.mark.parametrize(("content", "what", "advice"), OTHER_THINGS.values(), ids=OTHER_THINGS)
def test_another_thing_in_the_place_of_weights(copy, file, content, what, advice):
    path = copy.folder / file
    path.write_bytes(content)
    refused(lambda: load_checkpoint(copy.folder), str(path), f"{len(content):,} bytes", what, advice)


@pytest.mark.parametrize(("content", "what", "advice"), OTHER_THINGS.values(), ids=OTHER_THINGS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_another_thing_in_the_place_of_a_head(tmp_path, suffix, content, what, advice):
    path = tmp_path / f"head{suffix}"
    path.write_bytes(content)
    if what == "a PyTorch file" and suffix == ".pth":
        refused(lambda: load_head(path, small_config()), str(path), "not a shortcut head")
        return
    for action in (lambda: load_head(path, small_config()), lambda: describe(path), lambda: convert(path, tmp_path / "out.safetensors")):
        refused(action, str(path), what, advice)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "vqvae/config.json", "generation_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("name", ["a pointer", "a page", "nothing", "zeros", "a zip"])
def test_another_thing_in_the_place_of_json(copy, file, name):
    content, what, advice = OTHER_THINGS[name]
    (copy.folder / file).write_bytes(content)
    refused(lambda: load_checkpoint(copy.folder), str(copy.folder / file), what, advice)


def test_another_thing_in_the_place_of_gguf(tmp_path, small):
    path = tmp_path / "model.gguf"
    for content, what, advice in OTHER_THINGS.values():
        if what != "a GGUF file":
            path.write_bytes(content)
            refused(lambda: load_checkpoint(path), str(path), what, advice)
    shutil.copy(small.folder / WEIGHTS, path)
    refused(lambda: load_checkpoint(path), str(path), "a safetensors file", "ends in .safetensors")


def test_a_head_in_the_other_format_of_its_suffix_is_read(copy, small):
    path = copy.head.rename(copy.head.with_suffix(".pth"))  # safetensors inside
    assert describe(path).splitlines()[1:] == describe(small.head).splitlines()[1:]
    assert load_head(path, small_config()).config == load_head(small.head, small_config()).config


@pytest.mark.parametrize("name", ["head.SAFETENSORS", "head.Pth", "HEAD.PT"])
def test_suffixes_of_any_case(small, tmp_path, name):
    tensors, path = load_file(small.head), tmp_path / name
    save_file(tensors, path) if name.endswith("S") else torch.save(tensors, path)
    head = load_head(path, small_config())
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in head.state_dict().items())
    convert(path, tmp_path / "out.SafeTensors")
    assert load_file(tmp_path / "out.SafeTensors").keys() == tensors.keys()


@pytest.mark.parametrize("suffix", [".incomplete", ".part", ".crdownload"])
def test_an_unfinished_download_is_called_so(copy, suffix):
    path = copy.folder / WEIGHTS
    unfinished = path.rename(path.with_name(path.name + suffix))
    refused(lambda: load_checkpoint(copy.folder), str(unfinished), "did not finish")
    refused(lambda: load_checkpoint(unfinished), str(unfinished), "did not finish")
    (copy.folder / "tokenizer.json").rename(copy.folder / f"tokenizer.json{suffix}")
    unfinished.rename(path)
    refused(lambda: load_checkpoint(copy.folder), f"tokenizer.json{suffix}", "did not finish")


def test_an_unfinished_download_of_huggingface_is_found(copy):
    (copy.folder / "tokenizer.json").unlink()
    cache = copy.folder / ".cache" / "huggingface" / "download"
    cache.mkdir(parents=True)
    (cache / "x3Fr.abc.incomplete").write_text("")
    refused(lambda: load_checkpoint(copy.folder), "tokenizer.json does not exist", "x3Fr.abc.incomplete", "did not finish")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_a_pipe_is_not_waited_for(copy):
    (copy.folder / WEIGHTS).unlink()
    os.mkfifo(copy.folder / WEIGHTS)
    refused(lambda: load_checkpoint(copy.folder), WEIGHTS, "no regular file")


# A repository's folder in Hugging Face's cache: blobs, and snapshots of links to them.


def hub(folder: Path, repository: Path, *commits: str, main: str | None) -> Path:
    """Put a checkpoint folder into a cache, as its download would."""
    repository.mkdir()
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        blob = repository / "blobs" / f"{number:064x}"
        blob.parent.mkdir(exist_ok=True)
        shutil.copy(path, blob)
        for commit in commits:
            link = repository / "snapshots" / commit / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    if main is not None:
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(main)
    return repository


@pytest.mark.parametrize(("commits", "main"), [(["abc"], "abc"), (["abc", "def"], "def\n"), (["abc"], None), (["abc"], "gone")])
def test_a_cache_folder_is_its_snapshot(small, pipeline, tmp_path, commits, main):
    repository = hub(small.folder, tmp_path / "models--Alpha-VLLM--Lumina-DiMOO", *commits, main=main)
    ours = Pipeline.load(repository, dtype="fp32", device="cpu").generate(PROMPT, steps=2)
    assert torch.equal(ours.canvas.codes, pipeline.generate(PROMPT, steps=2, method="vanilla").canvas.codes)
    lines = describe(repository).splitlines()
    assert lines[0].startswith(str(repository / "snapshots" / (commits[-1]))) and lines[-1].startswith("  complete")
    convert(repository, tmp_path / "single.safetensors")
    assert load_checkpoint(tmp_path / "single.safetensors").base.config == small_config()


def test_a_cache_folder_with_nothing_to_choose_by(small, tmp_path):
    repository = hub(small.folder, tmp_path / "models--a--b", "abc", "def", main="../../../elsewhere")
    refused(lambda: load_checkpoint(repository), str(repository / "snapshots" / "abc"), str(repository / "snapshots" / "def"), "Choose one")
    shutil.rmtree(repository / "snapshots")
    (repository / "snapshots").mkdir()
    refused(lambda: load_checkpoint(repository), "did not finish")


def test_a_cache_folder_whose_download_did_not_finish(small, tmp_path):
    repository = hub(small.folder, tmp_path / "models--a--b", "abc", main="abc")
    (repository / "snapshots" / "abc" / "tokenizer.json").unlink()
    (repository / "blobs" / "0123.incomplete").write_text("")
    refused(lambda: load_checkpoint(repository), "tokenizer.json", "0123.incomplete", "did not finish")


# Folders and paths that are nothing of the kind.


def test_a_folder_of_other_files_names_them(tmp_path):
    (tmp_path / "DiMOO-Shortcut").mkdir()
    make_small_head(tmp_path / "DiMOO-Shortcut" / "head.safetensors", small_config())
    refused(lambda: load_checkpoint(tmp_path), WEIGHTS, os.path.join("DiMOO-Shortcut", "head.safetensors"))


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "a\0b", ""])
def test_paths_that_no_file_can_have(tmp_path, name, capsys):
    for action in (load_checkpoint, describe):
        with pytest.raises((CheckpointError, ValueError)):
            action(str(tmp_path / name))
    assert main(["inspect", str(tmp_path / name)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_file_without_tensors(tmp_path):
    path = tmp_path / "none.safetensors"
    save_file({}, path)
    refused(lambda: describe(path), str(path), "none of the kinds")
    refused(lambda: load_checkpoint(path), str(path))
    refused(lambda: load_head(path, small_config()), str(path))


def test_tables_of_tables_are_named(tmp_path):
    path = tmp_path / "training.pth"
    torch.save({"model": {"a": torch.ones(2)}, "optimizer": {"state": {}}, "epoch": 3}, path)
    refused(lambda: TensorSource.open(path), "'model', 'optimizer'", "state dict")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe{}", "not valid JSON"),
        (b'{"d_model": ' + b"9" * 5000 + b"}", "d_model is a number of too many digits"),
        (b'{"tokens": {"mask": [1, -Infinity]}}', "tokens.mask.1 is -inf"),
        (b'{"rope_theta": 1e999}', "rope_theta is inf"),
        (b"[" * 100_000, "nested deeper than 64 levels"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested deeper than 64 levels"),
        (b"{}" + b" " * 2**26, "no such file has more than 67,108,864"),
    ],
)
def test_json_that_is_none(copy, content, said):
    (copy.folder / "config.json").write_bytes(content)
    refused(lambda: load_checkpoint(copy.folder), "config.json", said)


# Claims.


@pytest.mark.parametrize("version", ["2.5.1+cu121", "2.9.1", "1.13", "unknown"])
def test_an_older_pytorch_reads_no_state_dict_and_points_to_safetensors(small, tmp_path, monkeypatch, version):
    path = tmp_path / "head.pth"
    torch.save(load_file(small.head), path)
    with monkeypatch.context() as older:
        older.setattr(torch, "__version__", version)
        refused(lambda: load_head(path, small_config()), str(path), "CVE-2026-24747", ".safetensors", version)
    shutil.copy(small.head, path)  # which is safe under any name
    assert load_head(path, small_config())


@pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "3.0.0"])
def test_a_newer_pytorch_reads_state_dicts(small, tmp_path, monkeypatch, version):
    torch.save(load_file(small.head), tmp_path / "head.pth")
    monkeypatch.setattr(torch, "__version__", version)
    assert load_head(tmp_path / "head.pth", small_config())


@pytest.mark.parametrize(("record", "said"), [("data.pkl", "unpacks to 33,554,432 bytes"), ("version", "compressed"), ("data/0", "compressed")])
def test_an_archive_that_unpacks_to_more_than_it_takes(tmp_path, record, said):
    content, path = io.BytesIO(state_dict()), tmp_path / "head.pth"
    with zipfile.ZipFile(content) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name in archive.namelist():
            inside = name.partition("/")[2]
            made.writestr(name, bytes(2**25) if inside == record else archive.read(name))
    refused(lambda: load_head(path, small_config()), str(path), said)


def test_a_pickle_of_more_instructions_than_any_weights_need(tmp_path):
    path = tmp_path / "head.pth"
    path.write_bytes(b"\x80\x02" + b"N0" * 10**6 + b"N.")
    refused(lambda: load_head(path, small_config()), str(path), "1,000,000 instructions")


def gguf(*, tensors: int = 0, fields: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, fields) + rest + bytes(32)


ARRAY = struct.pack("<Q", 1) + b"a" + struct.pack("<I", 9)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gguf(tensors=10**9), "1,000,000,000 tensors"),
        (gguf(fields=2**63), "fields"),
        (gguf(fields=1, rest=ARRAY + struct.pack("<IQ", 4, 10**9)), "1,000,000,000 entries"),
        (gguf(fields=1, rest=ARRAY + struct.pack("<IQ", 8, 10**9)), "1,000,000,000 entries"),
        (gguf(fields=1, rest=ARRAY + struct.pack("<IQ", 9, 1)), "damaged"),
        (gguf(fields=1, rest=ARRAY + struct.pack("<IQ", 4, 1000)), "ends within its header"),
        (gguf(fields=1, rest=struct.pack("<Q", 2**40)), "bytes of a text"),
    ],
)
def test_a_gguf_file_that_claims_more_than_it_holds(tmp_path, content, said):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    refused(lambda: load_checkpoint(path), str(path), said)


def test_a_header_larger_than_any_models(tmp_path):
    path = tmp_path / "model.safetensors"
    text = b"{}" + b" " * 2**25
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    refused(lambda: load_checkpoint(path), str(path), "a header of 33,554,434 bytes")


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool, torch.int64])
def test_integers_in_the_place_of_weights(copy, dtype):
    path = copy.head
    tensors = load_file(path)
    tensors["ln_f.weight"] = tensors["ln_f.weight"].to(dtype)
    save_file(tensors, path)
    refused(lambda: load_head(path, small_config()), str(path), "ln_f.weight", "floating-point")


ODD_TENSORS = {
    "sparse": lambda: torch.ones(16).to_sparse(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "complex": lambda: torch.ones(16, dtype=torch.complex64),
    "quint8": lambda: torch.quantize_per_tensor(torch.ones(16), 0.1, 0, torch.quint8),
    "without its numbers": lambda: torch.ones(16, device="meta"),
    "of fewer numbers": lambda: torch.ones(1).expand(10**6, 10**6),
    "float8_e8m0fnu": lambda: torch.ones(16).to(torch.float8_e8m0fnu),
}


@pytest.mark.parametrize("what", ODD_TENSORS)
def test_tensors_of_a_state_dict_that_no_weights_are(small, tmp_path, what):
    path = tmp_path / "head.pth"
    torch.save({**load_file(small.head), "ln_f.weight": ODD_TENSORS[what]()}, path)
    refused(lambda: load_head(path, small_config()), str(path), "ln_f.weight", what)


def test_more_blocks_than_any_model_has(small, tmp_path):
    path = tmp_path / "head.safetensors"
    blocks = {f"blocks.{k}.self_attn.ff_proj.weight": torch.zeros(0) for k in range(1, 300)}
    save_file({**load_file(small.head), **blocks}, path)
    refused(lambda: load_head(path, small_config()), str(path), "300 parts under blocks.")


def test_a_number_that_the_dtype_cannot_hold(copy, tmp_path):
    tensors = load_file(copy.head)
    tensors["ln_f.weight"][3] = 1e30
    save_file(tensors, copy.head)
    refused(lambda: load_head(copy.head, small_config(), dtype=torch.float16), str(copy.head), "ln_f.weight", "1e+30", "float16")
    refused(lambda: convert(copy.head, tmp_path / "out.safetensors", dtype=torch.float16), str(copy.head), "ln_f.weight", "1e+30")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("name", ["\x1b[31mred", "two\nlines", "x" * 1000])
def test_names_that_a_terminal_acts_on_are_shown_escaped_and_cut(copy, name):
    save_file({**load_file(copy.head), name: torch.ones(1)}, copy.head)
    with pytest.raises(CheckpointError) as error:
        load_head(copy.head, small_config())
    assert str(error.value).isprintable() and len(str(error.value)) < 500
