"""Files that are written whole or not at all: beside their target under a name of their own, and swapped in when they are complete.

A full disk, an error or a kill on the way leaves what was there, and two writers of one file do not mix. What must not be done
twice at a time holds a lock, which the system lets go of when its process ends, however it ends.
"""

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

LOCK = "lock"  # the file in a folder that is locked; it stays there, and means nothing by itself


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when the block ends, and is gone if it fails. Links are followed, and
    a file that was there hands on its permissions.

    Raises:
        OSError: naming ``path``; what was there is as it was.
    """
    target = Path(os.path.realpath(path))
    try:
        before = target.stat() if target.exists() else None
        if before and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if before and not stat.S_ISREG(before.st_mode):  # a device or a pipe would be gone
            raise OSError(errno.EINVAL, "It is a folder, a device or a pipe, expected a file")
        file, partial = _beside(target)
    except OSError as error:
        raise _naming(path, error) from None
    try:
        with file:
            if before:
                with suppress(OSError):  # of another owner, or on a disk without permissions
                    os.chmod(partial, stat.S_IMODE(before.st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
        _sync_folder(target.parent)
    except OSError as error:
        if error.filename not in (None, str(partial)):
            raise  # of another file, which was read meanwhile
        raise _naming(path, error) from None
    finally:
        with suppress(OSError):
            partial.unlink()


def _naming(path: str | Path, error: OSError) -> OSError:
    """The same error, of the file that the user knows."""
    return OSError(error.errno or errno.EIO, error.strerror or str(error), str(path))


def _beside(target: Path) -> tuple[BinaryIO, Path]:
    """A new file in the target's folder, with the permissions that the user's files have."""
    while True:
        path = target.with_name(f"{target.name[:40]}.{secrets.token_hex(4)}.partial")
        with suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            return os.fdopen(os.open(path, flags, 0o666), "wb"), path


def _sync_folder(folder: Path) -> None:
    """Put the new name on the disk, too, where the system can do that to a folder."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def as_json(values: object, **options) -> str:
    """JSON in which all letters stay readable but those that no file can hold, such as bytes of a file's name that are no text."""
    return readable(json.dumps(values, ensure_ascii=False, **options))


def readable(text: str) -> str:
    """Text that any file and log can hold: halves of characters, as in a file's name that is no text, become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def append_line(path: str | Path, line: str) -> None:
    """Add a line to a log.

    Raises:
        OSError: naming the file.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise _naming(path, error) from None


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold a folder, made if missing, alone among processes and within this one; where a disk knows no locks, nothing is held.

    Raises:
        ValueError: another holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "ab") as file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise ValueError(f"{folder} is being written to by another run. Wait until it ends, or choose another folder.") from None
        yield  # closing the file lets go of it


def _lock(file: BinaryIO) -> None:
    """Lock an open file, or raise an OSError at once."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
