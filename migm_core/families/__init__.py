"""The kinds of models that there are: one folder each, and its line here."""

from __future__ import annotations

from pathlib import Path

from ..checkpoints.errors import CheckpointError
from ..checkpoints.source import Reader, TensorSource
from ..sampling.backbone import BackboneConfig, HeadConfig
from .family import Family
from .lumina_dimoo.family import LuminaDiMOO
from .maskgit.family import MaskGIT

FAMILIES: tuple[Family, ...] = (LuminaDiMOO(), MaskGIT())


def detect(path: Path, reader: Reader | None = None, *, data: bool = True) -> tuple[Family, TensorSource | None]:
    """Find the family of a checkpoint, and open it.

    Args:
        reader, data: as for ``TensorSource.open``.

    Returns:
        The family and the opened checkpoint; None for the latter where it is a folder that only the family knows how to read.

    Raises:
        CheckpointError: it is of none, or cannot be opened.
    """
    source, error = None, None
    try:
        source = TensorSource.open(path, reader, data=data)
    except CheckpointError as failed:
        error = failed
    for family in FAMILIES:
        if family.matches(path, source):
            return family, source
    if error is not None:
        raise error
    if of := next((family for family in FAMILIES if family.is_head(source)), None):
        raise CheckpointError(f"{path} is a shortcut head for {of.title}, no checkpoint. Load a checkpoint, and give this file as its head.")
    titles = " or ".join(family.title for family in FAMILIES)
    raise CheckpointError(
        f"{path} is none of the kinds known here: its first tensors are {', '.join(list(source.shapes)[:3]) or 'none'}. "
        f"Expected a checkpoint of {titles}, a shortcut head or an image tokenizer."
    )


def detect_head(source: TensorSource) -> Family:
    """Find the family of a shortcut head.

    Raises:
        CheckpointError: it is of none.
    """
    for family in FAMILIES:
        if family.is_head(source):
            return family
    raise CheckpointError(
        f"{source.path} is not a shortcut head: its first tensors are {', '.join(list(source.shapes)[:3]) or 'none'}. "
        "Expected a head's file, for example shortcut.safetensors."
    )


def family_of(config: BackboneConfig) -> Family:
    """The family whose base has such a config.

    Raises:
        ValueError: it is no such config.
    """
    for family in FAMILIES:
        if isinstance(config, family.config):
            return family
    raise ValueError(f"base is a {type(config).__name__}, expected the config of a base model, as a loaded checkpoint's base has it.")


def family_of_head(config: HeadConfig) -> Family:
    """The family whose heads have such a config."""
    return next(family for family in FAMILIES if isinstance(config, family.head))


def family_named(name: str) -> Family:
    """Find a family by its name.

    Raises:
        ValueError: there is none.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    raise ValueError(f"There is no family {name!r} of models, expected {' or '.join(family.name for family in FAMILIES)}.")


__all__ = ["FAMILIES", "Family", "detect", "detect_head", "family_named", "family_of", "family_of_head"]
