"""What a model was trained for, and what to tell somebody who asks it for something else."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Trained:
    """The key ``trained`` of a generation_config.json; a model without it says nothing of itself.

    Attributes:
        sizes: (width, height) in pixels; empty where the model does not say, or draws any size.
        guidance: whether guidance above 0 serves it.
    """

    sizes: tuple[tuple[int, int], ...] = ()
    guidance: bool = True

    @classmethod
    def from_json(cls, values: object, source: str) -> "Trained":
        """Read the key's value, an object such as {"sizes": [[64, 64]], "guidance": false}; None for a file without it.

        Raises:
            ValueError: it is of another form.
        """
        if values is None:
            return cls()
        sizes, guidance = (values.get("sizes", []), values.get("guidance", True)) if isinstance(values, dict) else (None, None)
        if not isinstance(guidance, bool) or not isinstance(sizes, list) or not all(map(_is_size, sizes)):
            raise ValueError(f'{source}: trained in generation_config is {values!r:.200}, expected {{"sizes": [[width, height], ...], "guidance": true or false}}.')
        return cls(tuple(map(tuple, sizes)), guidance)


def _is_size(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)


def cautions(checkpoint, settings, negative: str = "") -> list[str]:
    """What a run with these settings does badly or ignores, one sentence each, before it draws.

    Args:
        checkpoint: a ``Checkpoint``.
        settings: the run's ``Settings``.
        negative: the negative prompt.
    """
    trained: Trained = checkpoint.trained
    said = []
    if trained.sizes and (settings.width, settings.height) not in trained.sizes:
        sizes = " and ".join(f"{width}x{height}" for width, height in trained.sizes)
        said.append(f"This model was trained for {sizes} pixels only; an image of {settings.width}x{settings.height} will be noise.")
    if settings.guidance > 0 and not trained.guidance:
        said.append(f"This model was not trained for guidance: {settings.guidance:g} makes images worse and takes twice as long. Set guidance to 0.")
    if negative.strip() and settings.guidance == 0:
        said.append("The negative prompt changes nothing, since guidance is 0.")
    return said
