"""What a refusal is: one sentence that names what is wrong."""

import pytest

from migm_core.checkpoints import CheckpointError


def refused(action, *parts: str, error: type[Exception] = CheckpointError) -> str:
    """The message of the error that ``action`` raises: one line, a whole sentence, with each of ``parts`` in it."""
    with pytest.raises(error) as caught:
        action()
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    assert "\n" not in message and message.endswith((".", "?")), message
    return message


def refused_request(action, *parts: str) -> str:
    """The same of what a user asks for, where no file is to blame."""
    return refused(action, *parts, error=ValueError)
