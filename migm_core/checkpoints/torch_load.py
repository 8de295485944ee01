"""torch.load, for tensors only: what an archive may unpack to is looked at before it is, and every failure becomes words."""

import io
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .errors import CheckpointError
from .recognise import explain_absence, recognise
from .torch_file import LARGEST_PICKLE

# Older ones can be made to run code even so: CVE-2025-32434, mended in 2.6, and CVE-2026-24747, in 2.10.
SAFE = (2, 10)
LARGEST_PLAIN = 2**20  # bytes of a file's records but its pickle and its tensors: a version, an order of bytes, an id


def check_version(path: str | Path) -> None:
    """Refuse a file that somebody else may have written where torch.load is not safe.

    Raises:
        CheckpointError: this PyTorch is older than SAFE.
    """
    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if found is None or tuple(map(int, found.groups())) < SAFE:
        raise CheckpointError(
            f"{path} is a file of torch.save, which PyTorch {torch.__version__} does not read safely (CVE-2025-32434, CVE-2026-24747). "
            "Use a .safetensors file of the model, or PyTorch 2.10 or newer."
        )


def load(path: Path, advice: str = "It may be cut short: download it again") -> Any:
    """What torch.save wrote, if it is tensors, tables, lists and numbers; in main memory, mapped where its form allows that.

    Args:
        advice: what to do with a damaged file.

    Raises:
        CheckpointError: it holds more, is damaged, or unpacks to more than such a file has.
    """
    if not path.is_file():
        raise CheckpointError(explain_absence(path, f"{advice}."))
    try:
        mapped = zipfile.is_zipfile(path)
        if mapped:
            with path.open("rb") as file:
                _check_archive(file, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickles, which are refused below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except CheckpointError:
        raise
    except Exception as error:  # on a damaged file the unpickler fails in any way
        if name := _foreign(error):
            raise CheckpointError(
                f"{path} holds more than tensors ({name}) and is refused, since loading it could run code. "
                "Use a file that holds a plain state dict, or a .safetensors file."
            ) from None
        if wrong := recognise(path, "torch"):
            raise CheckpointError(wrong) from None
        size = path.stat().st_size if path.is_file() else 0
        raise CheckpointError(
            f"{path} ({size:,} bytes) is damaged, or no plain PyTorch state dict, which is all that is read, since loading more "
            f"could run code. {advice}."
        ) from None


def load_part(file: BinaryIO, name: str) -> Any:
    """What torch.save wrote into a part of another file.

    Args:
        name: of the part, for messages.

    Raises:
        CheckpointError: as ``load``.
    """
    try:
        if zipfile.is_zipfile(file):
            _check_archive(file, name)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch says it in many ways, the archive's reader in others
        reason = " ".join(str(error).strip().partition("\n")[0].split())[:200].rstrip(".") or type(error).__name__
        raise CheckpointError(f"{name} cannot be read as a tensor ({reason}). Copy or download the file again.") from None


def _foreign(error: Exception) -> str | None:
    """What a pickle names that is no tensor, of torch's error."""
    found = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    return found[1][:80] if found else None


def _check_archive(file: BinaryIO, name: str | Path) -> None:
    """Refuse a zip whose records unpack to more than they take, or than such records have."""
    file.seek(0, io.SEEK_END)
    size, numbers = file.tell(), 0
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            record = entry.filename.partition("/")[2]
            if record.startswith("data/"):  # torch.save packs none of them, so all together they take no more than the file
                numbers += entry.file_size
                _check_unpacked(name, "tensors", numbers, size)
            else:
                _check_unpacked(name, entry.filename[:80], entry.file_size, LARGEST_PICKLE if record == "data.pkl" else LARGEST_PLAIN)


def _check_unpacked(name: str | Path, what: str, size: int, most: int) -> None:
    if size > most:
        raise CheckpointError(f"{name} unpacks to {size:,} bytes or more of {what}, but a file like it has at most {most:,}. Download it again.")
