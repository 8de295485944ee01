"""Files to models, whatever their family."""

from __future__ import annotations

from pathlib import Path

import torch

from .. import arguments
from ..modules import uninitialised
from ..sampling.backbone import BackboneConfig, Head
from .checkpoint import Checkpoint
from .errors import CheckpointError
from .files import locate
from .fingerprint import KEY
from .source import Reader, TensorSource


def load_checkpoint(
    path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: torch.device | str = "cpu",
    for_device: torch.device | str | None = None,
    output_rows=None,
    operations=uninitialised,
    image_operations=uninitialised,
    reader: Reader | None = None,
) -> Checkpoint:
    """Load a checkpoint: a folder in a published layout, or a single self-contained file. Its tensors tell its family.

    Weights that need neither conversion nor another device stay memory-mapped. Quantised weights stay quantised and are computed in ``dtype``.

    Args:
        device: on meta everything is checked, but of the weights nothing except headers is read: so a checkpoint is inspected.
        for_device: compute device, which "auto" chooses the dtype for; by default ``device``.
        operations, image_operations: namespaces of layers instead of torch.nn's, for the base and for the image tokenizer. A layer may choose
            another dtype than the one it is asked for. A layer without a parameter of a tensor's name gets the tensor as the file holds
            it. A namespace with ``loads_quantised = True`` has a Linear that loads quantised weights and their scales itself.
        reader: a host's own way to map .safetensors files, see ``TensorSource.open``.

    Raises:
        CheckpointError: naming the file and the key.
    """
    from ..families import detect

    path = locate(path)
    family, source = detect(path, reader, data=torch.device(device).type != "meta")
    return family.load(
        path,
        source,
        dtype=dtype,
        device=device,
        for_device=for_device or device,
        output_rows=output_rows,
        operations=operations,
        image_operations=image_operations,
        reader=reader,
    )


def load_head(path: str | Path, base: BackboneConfig, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Head:
    """Load a shortcut head, .pth or .safetensors, for a base model and in its dtype.

    Raises:
        CheckpointError: a file that is no head, or one for another base.
    """
    path = arguments.path("path", path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder. Expected the head's file, for example shortcut.safetensors.")
    return build_head(TensorSource.open(path), base, dtype=dtype, device=device)


def build_head(source: TensorSource, base: BackboneConfig, *, dtype=None, device="cpu", operations=uninitialised) -> Head:
    """Build a head from its tensors. Their names and shapes give the architecture, the base the number of attention heads. Its ``recorded_base`` is the
    fingerprint of the base that it was trained for, None where its file does not tell.

    Raises:
        CheckpointError: a file that is no head, or one for another base.
    """
    from ..families import detect_head, family_of

    ours, theirs = family_of(base), detect_head(source)
    if ours is not theirs:
        raise CheckpointError(
            f"{source.path} is a shortcut head for {theirs.title}, but the base is of {ours.title}. Load the head that belongs to this base."
        )
    head = ours.build_head(source, base, dtype=dtype, device=device, operations=operations)
    head.recorded_base = source.metadata.get(KEY)
    return head


def check_head(source: TensorSource) -> None:
    """Raise a CheckpointError if a file is no shortcut head, or an incomplete one."""
    from ..families import detect_head

    detect_head(source).head_config(source)
