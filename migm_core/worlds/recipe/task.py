"""What a stage is asked to do, and the models that earlier stages have left in its folder."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...devices import fast_dtype
from ...families.lumina_dimoo.backbone import Lumina
from ...families.maskgit.backbone import MaskGit
from ...tokenizers.amused_vq import ImageTokenizer
from ...training.distributed import World
from ...training.head import zero_init
from . import weights
from .lessons import Codes
from .sizes import Sizes

LOOK = 16  # pictures on a sheet while a base trains


@dataclass
class Task:
    """What a stage is asked to do.

    Attributes:
        seconds: of training, over all pieces.
        until: time.monotonic() at which this piece ends.
        clock: what the seconds of the tokenizer, the bases and the heads are read from.
        compile: fuse the models' blocks.
        keep: called in the first process when there is something new to keep.
        prompts: of the evaluation; split: of the scenes that they tell.
    """

    folder: Path
    sizes: Sizes
    seconds: float
    until: float = float("inf")
    clock: Callable[[], float] = time.monotonic
    world: World = field(default_factory=World)
    seed: int = 0
    compile: bool = False
    keep: Callable[[], None] = lambda: None
    prompts: int = 512
    split: str = "test"

    @property
    def device(self) -> torch.device:
        return self.world.device

    @property
    def time(self) -> dict:
        """How long the stage trains, for its ``Run``."""
        return {"seconds": self.seconds, "until": self.until, "clock": self.clock}

    def saver(self, name: str) -> Callable[[torch.nn.Module], None]:
        """What writes a model's weights to the folder after a checkpoint, and keeps them: a machine may end before its stage does."""

        def save(model: torch.nn.Module) -> None:
            weights.save(self.folder, name, model)
            self.keep()

        return save

    @property
    def half(self) -> torch.dtype:
        """What frozen models compute in."""
        return fast_dtype(self.device)

    @property
    def codes(self) -> Codes | None:
        """Where the base's pictures are kept for the model of classes; None where there is no such model."""
        if self.sizes.classes is None:
            return None
        return Codes(self.folder / "codes", digest(self.folder / "tokenizer.safetensors"), self.sizes.side)


def digest(path: Path) -> str:
    """A few letters that tell a .safetensors file's content from others.

    Raises:
        CheckpointError: it is none.
    """
    weights.check(path)
    return hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()


def weights_to_begin_with(folder: Path, name: str, kind: Callable, config: Any) -> dict | None:
    """Weights to go on from, unless the stage has a checkpoint of its own, which knows more."""
    return None if (folder / name / "checkpoint.pt").exists() else weights.load(folder, name, _shapes(kind, config))


def went_on(folder: Path, name: str, start: dict | None) -> bool:
    """Whether a stage began with weights that were there, in this piece or, by a mark in its folder, in an earlier one: all pieces learn at the same rates."""
    mark = folder / name / "went-on"
    if start is not None:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    return mark.exists()


def _shapes(kind: Callable, config: Any) -> torch.nn.Module:
    """A model without numbers."""
    with torch.device("meta"):
        return kind(config)


def trained(folder: Path, name: str, model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """A model with the weights that a stage has left.

    Raises:
        ValueError: it has left none, or those of another model.
    """
    found = weights.load(folder, name, model)
    if found is None:
        raise ValueError(f"{folder / f'{name}.safetensors'} does not exist. Run the stage {name} first, or give a folder with its weights by --init-from.")
    model.load_state_dict(found)
    return model.to(device).eval().requires_grad_(False)


def trained_if_there(folder: Path, name: str, kind: type, config, device: torch.device) -> torch.nn.Module | None:
    return trained(folder, name, kind(config), device) if (folder / f"{name}.safetensors").exists() else None


def image_tokenizer(folder: Path, sizes: Sizes, device: torch.device) -> ImageTokenizer:
    """The trained one."""
    return trained(folder, "tokenizer", ImageTokenizer(sizes.tokenizer), device)


def base_name(folder: Path) -> str:
    """The name of the base's weights: those that have learned other tasks as well, where there are such."""
    return "tasks" if (folder / "tasks.safetensors").exists() else "base"


def base_model(folder: Path, sizes: Sizes, device: torch.device) -> Lumina:
    """The trained one, with all output rows."""
    return trained(folder, base_name(folder), Lumina(sizes.base(), output_rows="all"), device)


def class_base_model(folder: Path, sizes: Sizes, device: torch.device) -> MaskGit:
    """The trained one."""
    return trained(folder, "classes", MaskGit(sizes.class_base()), device)


def new_head(kind: type, config, start: dict | None, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    found = kind(config)
    if start is None:
        zero_init(found)
    else:
        found.load_state_dict(start)
    return found
