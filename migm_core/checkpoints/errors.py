"""The one error that loading, inspecting and converting raise for a bad file."""


class CheckpointError(ValueError):
    """Names the file, what was expected of it and what to do."""
