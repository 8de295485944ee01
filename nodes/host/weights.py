"""Weights that the host places, casts, offloads and frees."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from pathlib import Path

import comfy.cli_args
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import nn

from ...migm_core.checkpoints import Checkpoint, CheckpointError, TensorSource, build_head, check_head, load_checkpoint
from ...migm_core.checkpoints.fill import copy_to_memory
from ...migm_core.checkpoints.quantised import SCALE, plain_dtype, plainly_spelled, quantised_layers
from ...migm_core.families import Family, detect
from ...migm_core.pipeline import Pipeline
from ...migm_core.sampling.backbone import Branch
from ...migm_core.sampling.memory import run_bytes as sampling_bytes
from ...migm_core.settings import Settings
from ...migm_core.tokenizers import tiled_decoding
from ...migm_core.tokenizers.tiled_decoding import TILE
from ..preview_account import PreviewAccount
from .folders import chosen, fingerprint, heads, models
from .operations import cast_on_cpu, operations


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A checkpoint whose weights the host owns.

    Attributes:
        name: as in the dropdown.
        checkpoint: its parts; where their weights lie is the host's business.
        base, image_tokenizer: the host's handles on them.
        dtype: that features are computed in.
        previews: by tokens of a canvas, what its previews cost.
        text: the handle on the rows of the output projection that text needs; empty until they are needed.
    """

    name: str
    checkpoint: Checkpoint
    base: comfy.model_patcher.ModelPatcher
    image_tokenizer: comfy.model_patcher.ModelPatcher
    dtype: torch.dtype
    previews: dict[int, PreviewAccount] = field(default_factory=dict)
    text: list[comfy.model_patcher.ModelPatcher] = field(default_factory=list)

    def get_models(self) -> list[comfy.model_patcher.ModelPatcher]:
        """What the host counts as in use while a prompt runs that holds this."""
        return [self.base, self.image_tokenizer, *self.text]

    @property
    def patcher(self) -> comfy.model_patcher.ModelPatcher:
        """What tells the host that this is a model: short of memory, it drops those of earlier workflows first."""
        return self.base

    def is_dynamic(self) -> bool:
        """Whether the host frees the weights by itself, and need not drop this to have their memory."""
        return is_dynamic(self.base)

    @property
    def device(self) -> torch.device:
        return self.base.load_device

    @property
    def downscale_factor(self) -> int:
        """Pixels a token along each side."""
        return self.checkpoint.image_tokenizer.config.downscale_factor


@dataclass(frozen=True, eq=False)
class HeadFile:
    """An opened head. It becomes a module for each base that it meets, since its number of heads is the base's.

    Attributes:
        name: as in the dropdown.
        source: its tensors.
        fitted: the host's handles, by the model. Models of one config and dtype share one, and it dies with the last of them: the host
            may keep this much longer than a model.
    """

    name: str
    source: TensorSource
    fitted: weakref.WeakKeyDictionary[LoadedModel, comfy.model_patcher.ModelPatcher] = field(default_factory=weakref.WeakKeyDictionary)

    def fit(self, model: LoadedModel) -> comfy.model_patcher.ModelPatcher:
        """The head for a base model.

        Raises:
            ValueError: it is for another base, or damaged; names both.
        """
        if model not in self.fitted:
            config, dtype = model.checkpoint.base.config, model.dtype
            alike = [handle for other, handle in self.fitted.items() if (other.checkpoint.base.config, other.dtype) == (config, dtype)]
            self.fitted[model] = alike[0] if alike else self._build(model)
        return self.fitted[model]

    def _build(self, model: LoadedModel) -> comfy.model_patcher.ModelPatcher:
        offload = model.base.offload_device
        try:
            head = build_head(self.source, model.checkpoint.base.config, dtype=model.dtype, device=offload, operations=operations(model.dtype, model.dtype, model.device, offload))
        except CheckpointError as error:
            raise ValueError(f"The head {self.name!r} does not fit the model {model.name!r}. {error}") from None
        leave_files(head)
        return handle_of(head, model.device, offload)

    def get_models(self) -> list[comfy.model_patcher.ModelPatcher]:
        """What the host counts as in use while a prompt runs that holds this."""
        return list({id(handle): handle for handle in self.fitted.values()}.values())

    def is_dynamic(self) -> bool:
        """As of a ``LoadedModel``."""
        return bool(self.fitted) and all(map(is_dynamic, self.fitted.values()))


# Two loaders of one file share its weights, which live as long as a node or a cache of the host holds them.
_models: weakref.WeakValueDictionary[tuple, LoadedModel] = weakref.WeakValueDictionary()
_heads: weakref.WeakValueDictionary[tuple, HeadFile] = weakref.WeakValueDictionary()


def dtypes() -> list[str]:
    """Choices of a loader, "auto" first."""
    fp8 = [str(dtype).removeprefix("torch.") for dtype in (torch.float8_e4m3fn, torch.float8_e5m2)] if comfy.model_management.get_supported_float8_types() else []
    return ["auto", "bf16", "fp16", "fp32", *fp8]


def load_model(name: str, dtype: str, *families: Family) -> LoadedModel:
    """A checkpoint by its name in the dropdown, of some families or of any, from memory where it is there already.

    Raises:
        ValueError: there is no such model, or its files are bad.
    """
    path = chosen(name, models(*families), "model")
    management = comfy.model_management
    device, offload = management.get_torch_device(), management.unet_offload_device()
    stored, computed, formats = _pick_dtypes(path, dtype, device)
    key = (fingerprint(path), stored, computed, device)
    model = _models.get(key)
    if model is None:
        image_device, image_offload = management.vae_device(), management.vae_offload_device()
        checkpoint = load_checkpoint(
            path,
            dtype=computed,
            device=offload,
            operations=operations(stored, computed, device, offload, formats),
            image_operations=operations(torch.float32, torch.float32, image_device, image_offload),
            reader=reader_for(device),
        )
        leave_files(checkpoint.base, checkpoint.image_tokenizer)
        base = handle_of(checkpoint.base, device, offload)
        image_tokenizer = handle_of(checkpoint.image_tokenizer.to(image_offload), image_device, image_offload)
        model = _models[key] = LoadedModel(name, checkpoint, base, image_tokenizer, computed)
    return model


def leave_files(*parts: nn.Module) -> None:
    """Where the host is to map no files (--disable-mmap), copy weights out of them."""
    if comfy.cli_args.args.disable_mmap:
        for part in parts:
            copy_to_memory(part)


def load_head(name: str) -> HeadFile:
    """A head by its name in the dropdown, from memory where it is there already.

    Raises:
        ValueError: there is no such head, or its file is bad.
    """
    path = chosen(name, heads(), "shortcut head")
    key = fingerprint(path)  # of the file that is opened, or of one before it: never of one that takes its place meanwhile
    head = _heads.get(key)
    if head is None:
        source = TensorSource.open(path)
        check_head(source)
        head = _heads[key] = HeadFile(name, source)
    return head


def _pick_dtypes(path: Path, name: str, device: torch.device) -> tuple[torch.dtype, torch.dtype, set[str]]:
    """The dtypes that large weights are kept in and that features are computed in, the host's choice where ours is auto; and the formats
    of the file's quantised weights, which stay as they are."""
    management = comfy.model_management
    supported = [torch.bfloat16, torch.float16, torch.float32]
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    family, opened = detect(path)
    source = plainly_spelled(family.base_tensors(path, opened))
    layers = quantised_layers(source, family.base_prefix).values()
    if name == "auto":
        count = sum(torch.Size(shape).numel() for shape in source.shapes.values())
        stored = management.unet_dtype(device, count, supported, plain_dtype(source) if source.shapes else None)
    else:
        stored = named[name] if name in named else getattr(torch, name)
    # The host's float8 has one scale for all of a weight.
    by_row = {layer.format + " by row" for layer in layers if layer.format.startswith("float8") and torch.Size(source.shapes[layer.companions[SCALE]]).numel() > 1}
    return stored, management.unet_manual_cast(stored, device, supported) or stored, {layer.format for layer in layers} | by_row


def handle_of(model: nn.Module, device: torch.device, offload: torch.device) -> comfy.model_patcher.ModelPatcher:
    """The host's handle on a model: of the kind that it uses for its own, since another in its list makes it free memory in the old way."""
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    own = type(model)
    if isinstance(getattr(own, "device", None), property):  # the host notes on a model where it lies, under a name that ours computes
        model.__class__ = type(own.__name__, (own,), {"device": None, "__module__": own.__module__})
    return patcher(cast_on_cpu(model, device), device, offload)


def is_dynamic(handle: comfy.model_patcher.ModelPatcher) -> bool:
    return hasattr(handle, "is_dynamic") and handle.is_dynamic()


def reader_for(device: torch.device):
    """The host's own reader where its memory is dynamic: tensors that it gives go from the file to the card without a stay in between."""
    memory = getattr(comfy, "memory_management", None)
    if not getattr(memory, "aimdo_enabled", False) or comfy.model_management.is_device_cpu(device):
        return None
    return lambda path: comfy.utils.load_torch_file(str(path))


def prepare(model: LoadedModel, head: HeadFile | None, settings: Settings, branches: list[Branch], *, probe: bool = False) -> Pipeline:
    """Have the host load what a run needs, with room for its activations; a pipeline on the host's device."""
    handles = [model.base, model.image_tokenizer, *([head.fit(model)] if head else [])]
    if is_dynamic(model.base):
        # The first named keeps its place longest. The head runs at most steps, and is small.
        handles.reverse()
    # Steps and previews come in turn. Previews make do with tiles, so that the weights keep their place.
    needed = max(run_bytes(model, settings, branches, probe=probe), decode_bytes(model, settings.width, settings.height, TILE))
    comfy.model_management.load_models_gpu(handles, memory_required=needed)
    module = head.fit(model).model if head else None
    return Pipeline(model.checkpoint, module, head.source.path if head else "", device=model.device)


def run_bytes(model: LoadedModel, settings: Settings, branches: list[Branch], *, probe: bool = False) -> int:
    """Most memory that a run needs on the device beside the weights that stay there."""
    base = model.checkpoint.base
    rows, columns = settings.height // model.downscale_factor, settings.width // model.downscale_factor
    lengths = [settings.batch * base.config.sequence_length(branch.prompt.shape[-1], rows, columns) for branch in branches]
    method = settings.build_method()
    return visiting_bytes(model) + sampling_bytes(base.config, model.dtype, lengths, settings.batch * rows * columns, method.probed() if probe else method)


def visiting_bytes(model: LoadedModel) -> int:
    """Bytes of the largest of the base's weights where it is offloaded or of 8 bits, as it came and as it is used."""
    largest = max(layer.in_features * layer.out_features for layer in model.checkpoint.base.modules() if hasattr(layer, "in_features"))
    return 2 * largest * model.dtype.itemsize


def decode_bytes(model: LoadedModel, width: int, height: int, tile: int = 0) -> int:
    """Bytes to decode one image of width x height pixels."""
    tokenizer = model.image_tokenizer
    return tiled_decoding.decode_bytes(model.checkpoint.image_tokenizer.config.channels, width, height, tile, cuda=tokenizer.load_device.type == "cuda")


def fitting_tile(model: LoadedModel, width: int, height: int) -> int:
    """0 where an image can be decoded whole in the memory that is free now, else the pixels a side of tiles: weights keep their place."""
    management, handle = comfy.model_management, model.image_tokenizer
    needed = decode_bytes(model, width, height) + handle.model_size() - handle.loaded_size() + management.minimum_inference_memory()
    return 0 if needed <= management.get_free_memory(handle.load_device) else TILE


def load_image_tokenizer(model: LoadedModel, width: int, height: int, tile: int = 0) -> None:
    """Have the host load it, with room for one image of so many pixels."""
    comfy.model_management.load_models_gpu([model.image_tokenizer], memory_required=decode_bytes(model, width, height, tile))
