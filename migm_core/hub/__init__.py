"""Models on Hugging Face by name: fetched when, and only when, a user names a repository.

    OWNER/NAME                    the files of a repository that are read here: weights, configurations, tokenizers
    OWNER/NAME:FOLDER/FILE.pth    one file of it, for example a shortcut head
    OWNER/NAME@REVISION           either, of a branch, tag or commit; the same as the argument ``revision``

What lies on disk wins: a file or folder of that name is never looked up, and what was fetched whole is not looked up again.
Files go into Hugging Face's cache or, from ComfyUI's own folder, into models/migm/OWNER/NAME. huggingface_hub does the
transfer, so its environment variables count (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN). Nothing fetched is run.
"""

import os
from pathlib import Path

from .errors import HubError
from .fetching import fetch
from .folders import fetched, own, target
from .names import parse

__all__ = ["HubError", "download", "is_repository", "resolve"]


def is_repository(name: str | Path) -> bool:
    """Whether a name stands for a repository or a file of one. It asks the disk, not the network.

    A Path never does, nor the name of something on disk, nor one that ends like a weights file: that is a path with a slip in it.
    """
    return parse(name) is not None and not os.path.lexists(name)


def resolve(name: str | Path, *, revision: str | None = None, folder: str | Path | None = None, progress: bool = True) -> Path:
    """The local path of a model: of a repository after fetching what is missing of it, of any other name that name itself.

    Args:
        revision: branch, tag or commit of a repository.
        folder: to fetch into; None for ComfyUI's model folder where that is, else Hugging Face's cache.
        progress: show bars on a terminal.

    Raises:
        HubError: a repository that is not here whole and could not be fetched, or a revision of what is none.
    """
    if not is_repository(name):
        if revision is not None:
            raise HubError(f"revision is {revision!r}, but {name} is no repository of Hugging Face. Leave it out.")
        return Path(name)
    wanted = parse(name, revision)
    folder = target(wanted, folder)
    if found := own(wanted, folder) or fetched(wanted, folder):
        return found
    return fetch(wanted, folder, progress, fall_back=True)


def download(name: str, folder: str | Path | None = None, revision: str | None = None, *, progress: bool = True) -> Path:
    """Fetch a repository or a file of one, or what has changed of it since, and return its path. Arguments as in ``resolve``.

    Unlike ``resolve`` it always asks the hub, and a file whose size is not the published one is fetched again.

    Raises:
        HubError: the name is none of a repository, or it could not be fetched.
    """
    wanted = parse(name, revision)
    if wanted is None:
        raise HubError(f"{name!r} names no repository. Expected OWNER/NAME, or OWNER/NAME:FILE for one file of it, for example Alpha-VLLM/Lumina-DiMOO.")
    return fetch(wanted, target(wanted, folder), progress, fall_back=False)
