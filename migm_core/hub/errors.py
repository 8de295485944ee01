"""A repository that could not be fetched."""

from ..writing import readable


class HubError(ValueError):
    """A repository that could not be fetched: one sentence on what was wrong and what to do."""

    def __init__(self, message: str):
        super().__init__(readable(message))
