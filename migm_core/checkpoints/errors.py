"""The one error that loading, inspecting and converting raise for a bad file."""

from ..writing import one_line


class CheckpointError(ValueError):
    """Names the file, what was expected of it and what to do.

    It is one line, whatever letters the file brings into it: a host's log takes text only, or its queue stops.
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))
