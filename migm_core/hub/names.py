"""What a repository's name stands for."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .errors import HubError

# In a pattern * stands for any letters, / included: the image tokenizer lies in a folder of its own.
FETCHED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.pth", "*.ckpt", "*.yaml")
WEIGHTS = (".safetensors", ".gguf", ".pth", ".pt", ".bin", ".ckpt")


@dataclass(frozen=True)
class Wanted:
    """What a name stands for: a repository, or one file of it, at a revision (None: the main branch)."""

    repository: str
    revision: str | None
    file: str | None

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "") + (f":{self.file}" if self.file else "")

    def select(self, files: list[str]) -> list[str]:
        """Those of a repository's files that are wanted."""
        from huggingface_hub.utils import filter_repo_objects

        if self.file:
            return [file for file in files if file == self.file]
        return list(filter_repo_objects(files, allow_patterns=list(FETCHED)))

    def under(self, folder: str | Path) -> Path:
        """The path to load, where the repository lies in a folder."""
        return Path(folder, self.file or "")


def parse(name: str | Path, revision: str | None = None) -> Wanted | None:
    """Take a name apart; None where it has not the form of a repository's.

    Raises:
        HubError: two revisions that differ.
    """
    if not isinstance(name, str) or name.count("/") == 0 or "\\" in name:
        return None
    # What needs no library first: this runs for every path.
    match = re.fullmatch(r"([^/@:]+/[^/@:]+)(?:@([^:]+))?(?::(.+))?", name)
    if not match or PurePosixPath(match[1]).suffix.lower() in WEIGHTS:
        return None
    file = match[3]
    if file and (PurePosixPath(file).suffix.lower() not in WEIGHTS or not stays_inside(file)):
        return None
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(match[1])
    except HFValidationError:
        return None
    if revision and match[2] and revision != match[2]:
        raise HubError(f"{name} names the revision {match[2]}, but revision {revision} was asked for too: give one of them.")
    return Wanted(match[1], revision or match[2], file)


def stays_inside(file: str) -> bool:
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in file and "\0" not in file
