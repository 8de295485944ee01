"""What a checkpoint is once it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sampling.backbone import Backbone
from ..trained import Trained

if TYPE_CHECKING:
    from ..families.family import Family


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a checkpoint holds, ready to generate.

    Attributes:
        path: where it came from.
        family: the kind of model.
        base, image_tokenizer: the models.
        prompts: what turns a request into tokens, the family's: text to ids, or classes to tokens.
        settings: sensible defaults of a run, by name, as the family's ``defaults``.
        trained: what the model was trained for.
        mapped: whether weights may stay in their files, where they need no conversion.
        file_stats: of the base's files as they were opened, where more of them is read later; see ``source.file_stat``.
    """

    path: Path
    family: Family
    base: Backbone
    image_tokenizer: Any
    prompts: Any
    settings: dict = field(default_factory=dict)
    trained: Trained = Trained()
    mapped: bool = True
    file_stats: Mapping[Path, tuple[int, int] | None] = field(default_factory=dict)
