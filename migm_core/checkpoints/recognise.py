"""Recognise a file by its first bytes, and explain why one is missing: for errors that say what to do."""

import codecs
import zipfile
from pathlib import Path

from .errors import CheckpointError

SUFFIXES = {"safetensors": (".safetensors",), "gguf": (".gguf",), "torch": (".pth", ".pt", ".bin", ".ckpt")}
UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2", ".tmp")
_ARCHIVES = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}
_PAGES = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<!--")


def detect_format(path: Path) -> str | None:
    """"safetensors", "gguf" or "torch" where the first bytes say so.

    Raises:
        CheckpointError: the file cannot be read.
    """
    first = _first_bytes(path)
    if first[:4] == b"GGUF":
        return "gguf"
    if first[8:9] == b"{" and int.from_bytes(first[:8], "little") < 2**40:
        return "safetensors"
    if first[:1] == b"\x80" or first[:2] == b"PK" and _is_torch_zip(path):
        return "torch"
    return None


def recognise(path: Path, expected: str) -> str | None:
    """Say what a file is if it is not what it should be; None where the first bytes do not tell.

    Args:
        expected: "safetensors", "gguf", "torch" or "JSON".
    """
    first = _first_bytes(path)
    said = _what(path, first, expected)
    if said is None:
        return None
    what, advice = said
    noun = {"safetensors": "a safetensors file", "gguf": "a GGUF file", "torch": "a PyTorch file", "JSON": "JSON"}[expected]
    return f"{path} ({path.stat().st_size:,} bytes) is {what}, not {noun}: {advice}."


def _what(path: Path, first: bytes, expected: str) -> tuple[str, str] | None:
    again = "download it again"
    if not first:
        return "empty", again
    if first.startswith((b"version https://git-lfs", b"# xet version")):
        return "a Git LFS pointer, which only stands for the file", "run `git lfs pull` in its folder, or download the file itself, from its address with /resolve/"
    if first.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return "a saved web page", "download the file itself, from its address with /resolve/ in place of /blob/"
    if not any(first):
        return "filled with zeros", f"its download did not finish, {again}"
    of = detect_format(path)
    if of == expected:
        return None
    if of is not None:
        return {"gguf": "a GGUF file", "safetensors": "a safetensors file", "torch": "a PyTorch file"}[of], f"rename it so that it ends in {SUFFIXES[of][0]}"
    for start, archive in _ARCHIVES.items():
        if first.startswith(start) and (start != b"PK\x03\x04" or zipfile.is_zipfile(path)):
            return archive, "unpack it"
    if first[257:262] == b"ustar":
        return "a tar archive", "unpack it"
    text = _text(first) if expected != "JSON" else None
    return None if text is None else (f"text that begins with {text!r}", again)


def _text(first: bytes) -> str | None:
    """The first line of what is text, cut short."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(first)  # the last letter may be cut in two
    except UnicodeDecodeError:
        return None
    if not text.strip() or any(not (letter.isprintable() or letter in "\t\r\n") for letter in text):
        return None
    line = text.strip().splitlines()[0]
    return line if len(line) <= 60 else line[:60] + "..."


def _first_bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} is not a file. Expected a file here: download it again.")
        with path.open("rb") as file:
            return file.read(512)
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def _is_torch_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.endswith("data.pkl") for name in file.namelist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False


def explain_absence(path: Path, advice: str) -> str:
    """Say why a file is not there, or is no file; name a download that did not finish."""
    try:
        if path.is_symlink() and not path.exists():
            return f"{path} is a link to {path.readlink()}, which does not exist. Its download did not finish, or the file was removed: download it again."
        if path.exists():
            return f"{path} is {'a folder' if path.is_dir() else 'no regular file'}, expected a file. {advice}"
        unfinished = _unfinished(path)
    except (OSError, ValueError) as error:
        return f"{path} cannot be read: {getattr(error, 'strerror', None) or error}."
    if unfinished:
        return f"{path} does not exist, but {unfinished} does: the download did not finish. Start it again."
    return f"{path} does not exist. {advice}"


def _unfinished(path: Path) -> Path | None:
    """A download beside a missing file that did not finish: a browser's, or one of Hugging Face's."""
    folder = path.parent
    for suffix in UNFINISHED:
        if (folder / (path.name + suffix)).exists():
            return folder / (path.name + suffix)
    cache = Path(".cache", "huggingface", "download")
    places = [folder / cache, folder.parent / cache]
    places += [parent.parent / "blobs" for parent in path.parents if parent.name == "snapshots"]
    return next((file for place in places if place.is_dir() for file in place.rglob("*.incomplete")), None)
