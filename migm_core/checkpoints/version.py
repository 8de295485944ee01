"""The version of the files that are written here, in the metadata of each. What has none, such as published files, is of version 1."""

from collections.abc import Mapping
from pathlib import Path

from .errors import CheckpointError

KEY, VERSION = "migm_format", 1


def check_version(metadata: Mapping[str, str], path: Path) -> None:
    """Raise a CheckpointError where a file was written by a newer version, which may mean something else by the same names."""
    said = metadata.get(KEY, "1")
    if said not in map(str, range(1, VERSION + 1)):
        raise CheckpointError(f"{path}: {KEY} is {said!r:.40} in its metadata, but this version reads {VERSION} at most. Update MIGM-Shortcut.")
