"""MaskGIT's files to models: every key checked before the first tensor is read.

A checkpoint is a base model and, beside it or in the same file, a VQGAN:

    FOLDER/MaskGIT_ImageNet_512.pth           or FOLDER/MaskGIT/..., FOLDER/pretrained_maskgit/MaskGIT/...
    FOLDER/VQGAN/last.ckpt, model.yaml        also beside the folder MaskGIT; upper and lower case are alike
    FOLDER/config.json                        where the model is none of the published ones; see ``Located.said``
    FOLDER/generation_config.json             its own settings of a run; may be absent
    FILE.safetensors                          all of it in one file, as ``migm convert`` writes it
"""

from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ... import arguments
from ...checkpoints.checkpoint import Checkpoint
from ...checkpoints.errors import CheckpointError
from ...checkpoints.files import find_file, read_file, read_json
from ...checkpoints.fill import fill
from ...checkpoints.generation import run_settings, trained_for
from ...checkpoints.recognise import SUFFIXES
from ...checkpoints.shapes import check_keys, check_sizes, count_parts, require, size_of
from ...checkpoints.source import Reader, TensorSource
from ...devices import resolve_dtype
from ...modules import uninitialised
from ...tokenizers.vqgan import Vqgan, VqganConfig
from ...trained import Trained
from ..family import Family
from .backbone import MaskGit
from .classes import ClassNames
from .config import PUBLISHED_HEADS, PUBLISHED_WIDTHS, MaskGitConfig
from .head import MaskGitHead, MaskGitHeadConfig
from .names import BACKBONE, BASE_MARK, HEAD, HEAD_MARK, IMAGE_TOKENIZER, IMAGE_TOKENIZER_MARK, IMAGE_TOKENIZER_PREFIX, Layout

PUBLISHED = "maskgit_imagenet_*"  # names of the published base models, in lower case
LARGEST_YAML = 2**16  # bytes; the published ones have 1 kB, and reading takes 50 ms for each 10 kB
BASE_FOLDERS = (".", "MaskGIT", "pretrained_maskgit/MaskGIT")
VQGAN_FOLDER, VQGAN_WEIGHTS, VQGAN_CONFIG = "VQGAN", "last.ckpt", "model.yaml"
PUBLISHED_VOCABULARY, PUBLISHED_CODES = 2026, 1024


@dataclass(frozen=True)
class Located:
    """The files of a checkpoint, opened but not read.

    Attributes:
        base: the base model, under the published names.
        image_tokenizer: its VQGAN; None where there is none.
        params: ``model.params`` of the VQGAN's model.yaml, and params_name where they come from.
        said: what the checkpoint says of itself, in a config.json of ours or in its metadata: n_heads, codebook_size, n_classes, class_names.
            All of it may be missing.
        said_name: where that comes from.
        generation: what it says of its runs, as in a generation_config.json, and generation_name where that comes from.
    """

    base: TensorSource
    image_tokenizer: TensorSource | None
    params: dict[str, Any]
    params_name: str
    said: dict[str, Any]
    said_name: str
    generation: dict[str, Any]
    generation_name: str

    def config(self) -> MaskGitConfig:
        """The base model's sizes: off its shapes, the VQGAN's codebook and, for the number of heads, what the checkpoint says.

        Raises:
            CheckpointError: they do not fit together.
        """
        codes = self.vqgan_config().codebook_size
        rows = size_of(self.base, "tok_emb.weight", 0)
        if self.said.get("codebook_size", codes) != codes or rows == PUBLISHED_VOCABULARY and codes != PUBLISHED_CODES:
            expected = self.said.get("codebook_size", PUBLISHED_CODES)
            raise CheckpointError(f"{self.image_tokenizer.path} has {codes} image codes, but the base model {self.base.path} {expected}. They are not of one checkpoint.")
        config = base_config(self.base, codes, self.said.get("n_heads", PUBLISHED_HEADS))
        if self.said.get("n_classes", config.n_classes) != config.n_classes:
            raise CheckpointError(f"{self.said_name}: n_classes is {self.said['n_classes']!r:.80}, but the weights of {self.base.path} have {config.n_classes}. They are not of one model.")
        return config

    def doubt(self) -> str:
        """A sentence for who should know that the number of heads is a guess; empty where it was said, or is that of a published size."""
        width = size_of(self.base, "tok_emb.weight", 1)
        return "" if "n_heads" in self.said or width in PUBLISHED_WIDTHS else guessed_heads(width)

    def vqgan_config(self) -> VqganConfig:
        """
        Raises:
            CheckpointError: there is no VQGAN, or its config is not one.
        """
        if self.image_tokenizer is None:
            raise CheckpointError(
                f"{self.base.path} is a MaskGIT base model without its image tokenizer. Expected {VQGAN_FOLDER}/{VQGAN_WEIGHTS} and "
                f"{VQGAN_FOLDER}/{VQGAN_CONFIG} beside it or beside its folder: download both there."
            )
        return vqgan_config(self.params, self.params_name)

    def class_names(self, count: int) -> ClassNames:
        """
        Raises:
            CheckpointError: the checkpoint names its classes, but not each with a word.
        """
        names = self.said.get("class_names")
        if names is None:
            return ClassNames.of(count)
        if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
            raise CheckpointError(f"{self.said_name}: class_names is {names!r:.80}, expected a list of names.")
        try:
            return ClassNames(count, names)
        except ValueError as error:
            raise CheckpointError(f"{self.said_name}: class_names: {error}") from None


def guessed_heads(width: int) -> str:
    """What to tell of a model whose number of heads nothing says."""
    return (
        f"Nothing says how many attention heads this model has, and its width, {width}, is none of the published ones, "
        f"{' and '.join(map(str, PUBLISHED_WIDTHS))}: {PUBLISHED_HEADS} are assumed. If its images are noise, say the number in a config.json beside it."
    )


def load(
    family: Family,
    path: Path,
    source: TensorSource | None,
    *,
    dtype: str | torch.dtype = "auto",
    device: torch.device | str = "cpu",
    for_device: torch.device | str | None = None,
    output_rows=None,
    operations=uninitialised,
    image_operations=uninitialised,
    reader: Reader | None = None,
) -> Checkpoint:
    """Load a base model and its VQGAN from a folder, from the base model's own file beside a VQGAN, or from one file with both.

    Arguments and errors as ``checkpoints.load_checkpoint``; output_rows is for models whose logits are more than image codes.
    """
    found = locate(path, source, reader, data=torch.device(device).type != "meta")
    config = found.config()
    weights = sum(torch.Size(shape).numel() for shape in found.base.shapes.values())
    options = {"dtype": resolve_dtype(dtype, for_device or device, weights), "device": device, "operations": operations}
    base = build_backbone(found.base, config.codebook_size, n_heads=config.n_heads, **options)
    image_tokenizer = build_vqgan(found.params, found.params_name, found.image_tokenizer, device=device, operations=image_operations)
    return Checkpoint(path, family, base, image_tokenizer, found.class_names(config.n_classes), *own_settings(family, found))


def own_settings(family: Family, found: Located) -> tuple[dict[str, Any], Trained]:
    """A checkpoint's own settings of a run, at the one size that it has, and what it was trained for.

    Raises:
        CheckpointError: what it says of them makes no sense.
    """
    downscale_factor = found.vqgan_config().downscale_factor
    side = found.config().grid * downscale_factor
    settings = run_settings(family, found.generation, found.generation_name, downscale_factor) | {"width": side, "height": side}
    trained = trained_for(found.generation, found.generation_name, downscale_factor)
    return settings, replace(trained, doubts=tuple(filter(None, [found.doubt()])))


def locate(path: Path, source: TensorSource | None = None, reader: Reader | None = None, *, data: bool = True) -> Located:
    """The files of a checkpoint that is given as a folder or as a file.

    Args:
        source: what ``path`` opens as, where that has been done.

    Raises:
        CheckpointError: the base model is missing, or one of several, or a file is damaged.
    """
    if path.is_dir():
        path, source = find_base(path) or find_file(path, VQGAN_WEIGHTS), None
    source = source or TensorSource.open(path, reader, data=data)
    if BASE_MARK not in source:
        raise CheckpointError(f"{path} is an image tokenizer (VQGAN), not a model that generates. Give the folder or the file of the MaskGIT base model that it belongs to.")
    base = source.renamed({name: name for name in source.shapes if not name.startswith(IMAGE_TOKENIZER_PREFIX)})
    if "config" in source.metadata:
        said, said_name, beside = source.metadata_json("config"), f"{path}: config", False
    else:
        said, said_name = _own_config(path.parent / "config.json"), str(path.parent / "config.json")
        said, beside = said or {}, said is not None  # the other files beside it are of the same model as its config
    generation_path = path.parent / "generation_config.json"
    generation_name = str(generation_path)
    if "generation_config" in source.metadata:
        generation, generation_name = source.metadata_json("generation_config"), f"{path}: generation_config in its metadata"
    else:
        generation = read_json(generation_path) if beside and os.path.lexists(generation_path) else {}
    inside = source.prefixed(IMAGE_TOKENIZER_PREFIX)
    image_tokenizer, params, params_name = None, {}, ""
    if inside.shapes:
        image_tokenizer, params, params_name = inside, source.metadata_json("vqgan_config"), f"{path}: vqgan_config"
    elif folder := find_vqgan_folder(path.parent):
        image_tokenizer, params, params_name = open_vqgan(folder, reader, data=data)
    return Located(base, image_tokenizer, params, params_name, said, said_name, generation, generation_name)


def find_vqgan_folder(folder: Path) -> Path | None:
    """The VQGAN's folder beside a base model that lies in this folder, or beside the folder; None where there is none."""
    return next((found for place in (folder, folder.parent) if (found := find_file(place, VQGAN_FOLDER)).is_dir()), None)


def find_base(folder: Path) -> Path | None:
    """The base model's file in a folder; None where there is none.

    Raises:
        CheckpointError: there are several, and not one of them alone has a published name.
    """
    found = []
    for place in BASE_FOLDERS:
        place = folder if place == "." else _find_folder(folder, place)
        if place is None:
            continue
        found += [file for file in _weights_files(place) if _holds(file, BASE_MARK)]
        if found:
            break
    named = [file for file in found if fnmatch.fnmatch(file.name.lower(), PUBLISHED)]
    if len(found) > 1 and len(named) != 1:
        raise CheckpointError(f"{folder} holds several MaskGIT base models, {', '.join(file.name for file in named or found)}. Give the path of one of them.")
    return (named or found or [None])[0]


def open_vqgan(path: Path, reader: Reader | None = None, *, data: bool = True) -> tuple[TensorSource, dict[str, Any], str]:
    """A VQGAN's tensors, ``model.params`` of its config, and where that comes from, of a folder or of its file.

    Raises:
        CheckpointError: a file is missing, damaged or something else.
    """
    if path.is_dir():
        weights = find_file(path, VQGAN_WEIGHTS)
        others = [] if weights.exists() else [file for file in _weights_files(path) if _holds(file, IMAGE_TOKENIZER_MARK)]
        path = others[0] if len(others) == 1 else weights
    source = without_loss(TensorSource.open(path, reader, data=data))
    if "vqgan_config" in source.metadata:
        return source, source.metadata_json("vqgan_config"), f"{path}: vqgan_config"
    config = find_file(path.parent, VQGAN_CONFIG)
    return source, read_params(config), str(config)


def without_loss(source: TensorSource) -> TensorSource:
    """A VQGAN without what only its training needs: the perceptual loss and the discriminator."""
    return source.renamed({name: name for name in source.shapes if not name.startswith("loss.")})


def read_params(path: Path) -> dict[str, Any]:
    """``model.params`` of a model.yaml.

    Raises:
        CheckpointError: the file is missing, no YAML, or of another form.
    """
    import yaml  # which only a VQGAN in its published form needs

    content = read_file(path, f"Expected the config of the VQGAN beside its weights: download {VQGAN_CONFIG} there.", LARGEST_YAML)
    try:
        values = yaml.safe_load(content.decode("utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid YAML: {' '.join(str(error).split())}. Download it again.") from None
    model = values.get("model") if isinstance(values, dict) else None
    params = model.get("params") if isinstance(model, dict) else None
    if not isinstance(params, dict):
        raise CheckpointError(f"{path}: expected a table model with a table params. Use the model.yaml of a VQGAN of taming-transformers.")
    # What an alias repeats is written out only where it is shown, and then a few hundred bytes may take hours: nothing here becomes text but by ``shown``.
    target = model.get("target", "")
    if not isinstance(target, str) or target.rpartition(".")[2] not in ("", "VQModel"):
        raise CheckpointError(f"{path}: model.target is {arguments.shown(target)}, but only a VQModel is supported. Use a VQGAN of taming-transformers.")
    return params


def base_config(source: TensorSource, codebook_size: int, n_heads: int) -> MaskGitConfig:
    """
    Raises:
        CheckpointError: the tensors are not those of one MaskGIT base model.
    """
    require(source, ("pos_emb", "tok_emb.weight", "transformer.layers.0.1.fn.net.0.weight"), what="MaskGIT base model")
    try:
        return MaskGitConfig.from_shapes(source.shapes, codebook_size, n_heads)
    except ValueError as error:
        raise CheckpointError(f"{source.path}: {error}. It may be of another model, or belong to another image tokenizer.") from None


def build_backbone(
    source: TensorSource, codebook_size: int, *, n_heads: int = PUBLISHED_HEADS, dtype=None, device="cpu", operations=uninitialised
) -> MaskGit:
    """The base model from its tensors, in evaluation mode. Its sizes are read off their shapes.

    Raises:
        CheckpointError: the tensors are not those of one MaskGIT base model.
    """
    config = base_config(source, codebook_size, n_heads)
    layout = Layout(MaskGit(config, device="meta", operations=uninitialised), BACKBONE)
    model = MaskGit(config, dtype=dtype, device="meta", operations=operations)
    model.stored_bits = source.bits()
    return _filled(model, layout, source, "MaskGIT base model", device)


def vqgan_config(params: dict[str, Any], name: str) -> VqganConfig:
    try:
        return VqganConfig.from_params(params, name)
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def build_vqgan(params: dict[str, Any], config_name: str, source: TensorSource, *, device="cpu", operations=uninitialised) -> Vqgan:
    """The image tokenizer from the ``model.params`` of its model.yaml and its tensors, in float32 and evaluation mode.

    Raises:
        CheckpointError: a config that asks for another architecture, or tensors that do not fit it.
    """
    config = vqgan_config(params, config_name)
    require(source, ("encoder.conv_out.weight", "quantize.embedding.weight"), what="VQGAN")
    sizes = {  # they bound the model that is built
        "n_embed": (config.n_embed, size_of(source, "quantize.embedding.weight", 0)),
        "embed_dim": (config.embed_dim, size_of(source, "quantize.embedding.weight", 1)),
        "the length of ch_mult": (len(config.ch_mult), count_parts(source, "encoder.down.")),
        "num_res_blocks": (config.num_res_blocks, count_parts(source, "encoder.down.0.block.")),
        "z_channels": (config.z_channels, size_of(source, "encoder.conv_out.weight", 0)),
    }
    check_sizes(config_name, source, sizes)
    layout = Layout(Vqgan(config, device="meta", operations=uninitialised), IMAGE_TOKENIZER)
    return _filled(Vqgan(config, dtype=torch.float32, device="meta", operations=operations), layout, source, "VQGAN", device)


def build_head(source: TensorSource, base: MaskGitConfig, *, dtype=None, device="cpu", operations=uninitialised) -> MaskGitHead:
    """The head from its tensors; the architecture follows from their names and shapes, the number of attention heads from the base.

    Raises:
        CheckpointError: it is no MaskGIT head, or one for another base.
    """
    config = head_config(source, base)
    layout = Layout(MaskGitHead(config, device="meta", operations=uninitialised), HEAD)
    return _filled(MaskGitHead(config, dtype=dtype, device="meta", operations=operations), layout, source, "MaskGIT shortcut head", device)


def head_config(source: TensorSource, base: MaskGitConfig | None = None) -> MaskGitHeadConfig:
    """A head's architecture as its keys and shapes tell it, each of them checked. Without a base its number of attention heads is 1.

    Raises:
        CheckpointError: it is no MaskGIT head, an incomplete one, or one for another base.
    """
    require(source, (HEAD_MARK, "last_layer.0.weight"), what="MaskGIT shortcut head")
    width = size_of(source, "last_layer.0.weight", 0)
    d_model = size_of(source, "proj_in.weight", 1) or width
    config = MaskGitHeadConfig(
        d_model=d_model,
        n_heads=1,
        n_blocks=count_parts(source, "blocks."),
        bottleneck_ratio=d_model / width,
        time_embedding="adaLN_modulation.weight" in source,
    )
    check_keys(source, Layout(MaskGitHead(config, device="meta", operations=uninitialised), HEAD).shapes, what="MaskGIT shortcut head")
    if base is None:
        return config
    if d_model != base.d_model:
        raise CheckpointError(
            f"{source.path} was trained for a base model of width {d_model}, but this base has width {base.d_model}. "
            "Load the head that belongs to this base."
        )
    try:
        return replace(config, n_heads=base.n_heads)
    except ValueError as error:
        raise CheckpointError(f"{source.path}: {error}. Load the head that belongs to this base, or say the base's own n_heads in a config.json beside it.") from None


def _filled(model: nn.Module, layout: Layout, source: TensorSource, what: str, device) -> nn.Module:
    """A model with the tensors of a file, after holding the names and shapes of all against it."""
    check_keys(source, layout.shapes, what=what)
    return fill(model, layout.stored, lambda own: source.get(layout.stored[own].name, layout.stored[own].rows), device, source.path)


def _own_config(path: Path) -> dict[str, Any] | None:
    """A config.json of ours; empty where there is none, None for one of another kind of model."""
    values = read_json(path) if path.exists() else {}
    return values if values.get("model_type", "maskgit") == "maskgit" else None


def _find_folder(folder: Path, place: str) -> Path | None:
    for name in place.split("/"):
        folder = find_file(folder, name)
    return folder if folder.is_dir() else None


def _weights_files(folder: Path) -> list[Path]:
    suffixes = SUFFIXES["safetensors"] + SUFFIXES["torch"]
    try:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes and file.is_file())
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror or error}.") from None


def _holds(file: Path, mark: str) -> bool:
    """Whether a file holds a tensor; a file that cannot be read does not."""
    try:
        return mark in TensorSource.open(file, data=False)
    except CheckpointError:
        return False
