"""What is said where a repository cannot be fetched: one sentence, and what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import HubError
from .folders import place_of
from .names import Wanted


@contextmanager
def in_words(wanted: Wanted, folder: Path | None) -> Iterator[None]:
    """What goes wrong within the block as a HubError; what is a fault of this program as it is."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        said = explain(error, wanted, place_of(folder))
        if said is None:
            raise
        raise HubError(said) from error


def explain(error: Exception, wanted: Wanted, place: Path) -> str | None:
    """One sentence, and what to do; None for what no network and no disk can cause."""
    from huggingface_hub import constants, errors

    name = wanted.repository
    status = next((cause.response.status_code for cause in _causes(error) if getattr(cause, "response", None) is not None), None)
    if isinstance(error, errors.GatedRepoError):
        return f"{name} is gated: accept its terms at {constants.ENDPOINT}/{name}, then run `hf auth login` and try again."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{constants.ENDPOINT} shows no repository {name}, and nothing here has that name: check the name or, if it is private, run `hf auth login`."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no revision {wanted.revision or 'main'}: expected one of its branches, tags or commits."
    if status in (401, 403):
        return f"{constants.ENDPOINT} refuses access to {name} (status {status}): run `hf auth login` with an account that may read it."
    if status == 416:
        return f"A part of {name} that an earlier download left in {place} is damaged: delete the .incomplete files there and start again."
    if status is not None:
        return f"{constants.ENDPOINT} answered with status {status} for {wanted}: try again later."
    if constants.HF_HUB_OFFLINE and is_unreachable(error):
        return f"{wanted} is not here whole, and HF_HUB_OFFLINE forbids to fetch it: set it to 0, or fetch the model first."
    if is_unreachable(error):
        return f"{constants.ENDPOINT} cannot be reached ({_first_line(error)}), and {wanted} is not here whole: check the network, then start again; finished files are kept."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return f"The disk of {place} is full: free some room for {wanted}, then start again; finished files are kept."
    if isinstance(error, OSError) and error.errno:
        return f"{error.filename or place}: {error.strerror}."
    if isinstance(error, OSError) and "Consistency check" in str(error):
        return f"A file of {wanted} did not arrive whole: start again; finished files are kept."
    if isinstance(error, (OSError, RuntimeError)):
        return f"{wanted} could not be fetched: {_first_line(error)}."
    return None


def is_unreachable(error: BaseException) -> bool:
    """Whether an error comes from the network, and not from a server that answered. huggingface_hub has used several libraries for that."""
    causes = list(_causes(error))
    if any(getattr(cause, "response", None) is not None for cause in causes):
        return False
    libraries = ("httpx", "httpx2", "requests", "urllib3")
    return any(isinstance(cause, (ConnectionError, TimeoutError)) or type(cause).__module__.partition(".")[0] in libraries for cause in causes)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
