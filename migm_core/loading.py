"""From names to models: a checkpoint and a head are found, loaded, and brought to the device that computes."""

from dataclasses import replace
from pathlib import Path

import torch

from . import arguments, hub
from .checkpoints import Checkpoint, load_checkpoint, load_head
from .checkpoints.fill import copy_to_memory
from .devices import resolve_device
from .modules.streaming import StreamedBlocks, fits
from .sampling.backbone import Head
from .sampling.cost import PROMPT
from .sampling.memory import run_bytes
from .sampling.methods import METHODS
from .switches import Switches
from .tokenizers.tiled_decoding import TILE, decode_bytes

_FOLDER = Path(__file__).parent / "demo"
BUNDLED = {"demo": _FOLDER / "text", "demo-classes": _FOLDER / "classes"}  # models that come along, by name
BUNDLED_HEADS = {name: path / "shortcut.safetensors" for name, path in BUNDLED.items()}


def load_models(
    model: str | Path,
    head: str | Path | None,
    *,
    dtype,
    device: str | None,
    revision: str | None,
    stream: bool | None,
    mmap: bool,
    switches: Switches,
) -> tuple[Checkpoint, Head | None, str | Path, StreamedBlocks | None]:
    """Load a checkpoint and a head; arguments and errors as ``Pipeline.load``.

    Returns:
        Both, where the head came from ("" without one), and what moves the base's blocks to the device, where they stay in main memory.
    """
    _check(model, head, revision, stream, mmap, switches)
    device = resolve_device(device)
    switches.check(device)
    path, head = _find(model, head, revision)
    # On CUDA through main memory, where files are mapped: only then it is known whether there is room.
    first = torch.device("cpu") if device.type == "cuda" or stream else device
    checkpoint = load_checkpoint(path, dtype=dtype, device=first, for_device=device)
    loaded = load_head(head, checkpoint.base.config, dtype=checkpoint.base.dtype, device=device) if head is not None else None
    if not mmap:
        for part in filter(None, (checkpoint.base, checkpoint.image_tokenizer, loaded)):
            copy_to_memory(part)
        checkpoint = replace(checkpoint, mapped=False)
    switches.prepare(checkpoint)
    streamed = _move(checkpoint, device, stream) if first != device or stream else None
    return checkpoint, loaded, head or "", streamed


def _check(model, head, revision, stream, mmap, switches) -> None:
    for name, value in (("model", model), ("head", head)):
        if not isinstance(value, (str, Path)) and (name == "model" or value is not None):
            raise ValueError(f"{name} is {arguments.shown(value)}, but must be a path or a name.")
    arguments.instance("switches", switches, Switches)
    if revision is not None:
        arguments.text("revision", revision)
    if stream is not None:
        arguments.switch("stream", stream)
    arguments.switch("mmap", mmap)


def _find(model: str | Path, head: str | Path | None, revision: str | None) -> tuple[Path, Path | None]:
    """The paths of both, fetched where they are not here yet."""
    name = str(model)
    if head == "auto":
        head = BUNDLED_HEADS.get(name)
    elif head is not None:
        head = hub.resolve(head)
    return hub.resolve(BUNDLED.get(name, model), revision=revision), head


def _move(checkpoint: Checkpoint, device: torch.device, stream: bool | None) -> StreamedBlocks | None:
    """Bring a checkpoint to the device, the base whole or, where it has no room or that was asked for, block by block at each pass."""
    checkpoint.image_tokenizer.to(device)
    if stream or stream is None and not fits(checkpoint.base, device, _usual_bytes(checkpoint)):
        return StreamedBlocks(checkpoint.base, device)
    checkpoint.base.to(device)
    return None


def _usual_bytes(checkpoint: Checkpoint) -> int:
    """Bytes that a vanilla run with the checkpoint's own settings needs beside the weights, and then its image, which may be decoded in tiles."""
    config, own = checkpoint.base.config, checkpoint.settings
    factor = checkpoint.image_tokenizer.config.downscale_factor
    rows, columns = own["height"] // factor, own["width"] // factor
    lengths = [config.sequence_length(PROMPT, rows, columns)] * (2 if own["guidance_scale"] > 0 else 1)
    of_run = run_bytes(config, checkpoint.base.dtype, lengths, rows * columns, METHODS["vanilla"]())
    return max(of_run, decode_bytes(checkpoint.image_tokenizer.config.channels, own["width"], own["height"], TILE))
