"""Write files whole or not at all: under a temporary name beside the target, which replaces it when it is complete.

After a full disk, an error or a kill the old file is still there, and two writers of one file do not mix. The next writer of a file removes
what a killed one has left of it. Work that must not run twice at a time holds a lock; the system releases it when the process
ends, however it ends.
"""

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_ENDLESS = re.compile(r"\S{400,}")
LOCK = "lock"  # the file that is locked; it stays in the folder, and means nothing by itself


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, which replaces ``path`` when the block ends, and is removed if it fails. Links are followed, and
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
        _remove_left(target)
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
    """The same error, with the name of the file that the user knows."""
    return OSError(error.errno or errno.EIO, error.strerror or str(error), str(path))


def _beside(target: Path) -> tuple[BinaryIO, Path]:
    """A new file in the target's folder, locked, with the permissions that the user's files have."""
    while True:
        path = target.with_name(f"{target.name[:40]}.{secrets.token_hex(4)}.partial")
        with suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            file = os.fdopen(os.open(path, flags, 0o666), "wb")
            with suppress(OSError):  # a disk without locks
                _lock(file)
            if os.fstat(file.fileno()).st_nlink:
                return file, path
            file.close()  # before it was locked, another writer removed it as left over


def _remove_left(target: Path) -> None:
    """Remove what killed writers of the same file have left: nobody holds its lock."""
    left = re.compile(re.escape(target.name[:40]) + r"\.[0-9a-f]{8}\.partial")
    with suppress(OSError):
        for path in target.parent.iterdir():
            if left.fullmatch(path.name) and path.is_file():
                with suppress(OSError), path.open("r+b") as file:
                    _lock(file)
                    path.unlink()


def _sync_folder(folder: Path) -> None:
    """Flush the new name to the disk, where the system can flush folders."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def as_json(values: object, **options) -> str:
    """JSON with readable letters; only what no text file can hold is escaped, such as a file name's bytes that are no text."""
    return readable(json.dumps(values, ensure_ascii=False, **options))


def readable(text: str) -> str:
    """Text that any file and log can hold: lone surrogates, as in a file name that is no text, become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """Text as an error shows it: readable, without letters that end a line, move a terminal's cursor or turn the order of writing, and
    with very long words, such as a path that no file can have, cut in the middle."""
    shown = _UNSHOWN.sub(lambda letter: letter[0].encode("unicode_escape").decode(), readable(text))
    return _ENDLESS.sub(lambda word: f"{word[0][:200]}...{word[0][-60:]}", shown)


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
    """Lock a folder, made if missing, against other processes and against this one. On a disk without locks nothing is locked.

    A folder that was made for a block that fails, and has nothing in it, is removed again.

    Raises:
        ValueError: another holds it.
        OSError: naming the folder that cannot be made.
    """
    folder = Path(folder)
    with folder_for(folder), open(folder / LOCK, "ab") as file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise ValueError(f"{folder} is being written to by another run. Wait until it ends, or choose another folder.") from None
        yield  # closing the file lets go of it


@contextmanager
def folder_for(folder: str | Path) -> Iterator[None]:
    """A folder to write into, made if missing. If the block fails and has left nothing in it, what was made is removed again.

    Raises:
        OSError: naming the folder that cannot be made.
    """
    folder = Path(folder)
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):
            if missing and [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
            for each in missing:
                each.rmdir()
        raise


def existing(folder: str | Path) -> Path:
    """A folder, or the nearest above it that is there.

    Raises:
        OSError: naming a file in the place of that folder.
    """
    folder = Path(folder)
    found = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not found.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(found))
    return found


def _lock(file: BinaryIO) -> None:
    """Lock an open file, or raise an OSError at once."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
