"""From the trained weights to the checkpoints that the product bundles, in the published layouts of both families."""

import json
from pathlib import Path

import torch
from torch import nn

from ...checkpoints import save_head
from ...checkpoints.convert import base_tensors
from ...checkpoints.save import stored
from ...checkpoints.source import SINGLE, TensorSource
from ...checkpoints.write import write_tensors
from ...families.lumina_dimoo.head import ShortcutHead
from ...families.lumina_dimoo.names import BASE_PREFIX, QUANTISABLE
from ...families.lumina_dimoo.write import KIND_BASE, save_checkpoint
from ...families.maskgit import names, write
from ...families.maskgit.config import MaskGitConfig
from ...families.maskgit.files import VQGAN_CONFIG, VQGAN_FOLDER
from ...families.maskgit.head import MaskGitHead
from ...writing import as_json
from .. import lakeside
from .maskgit import as_vqgan
from .sizes import Sizes
from .stages.evaluating import CLASS_GUIDANCE
from .task import base_model, base_name, class_base_model, image_tokenizer, trained
from .tasks import TASKS, UNDERSTANDING

SHORTCUT = "shortcut.safetensors"
CPU = torch.device("cpu")


def assemble(folder: Path, sizes: Sizes, base_dtype: torch.dtype = torch.float16) -> list[Path]:
    """Write ``folder/checkpoint`` and, where a model of classes is trained, ``folder/maskgit``; which of them.

    Args:
        base_dtype: of the base's weights, float16 or int8; all others are stored in float16.
    """
    written = [_lumina(folder, sizes, base_dtype)]
    if (folder / "classes.safetensors").exists():
        written.append(_maskgit(folder, sizes))
    return written


def _lumina(folder: Path, sizes: Sizes, base_dtype: torch.dtype) -> Path:
    target = folder / "checkpoint"
    settings = _settings(sizes.pixels, sizes.steps, sizes.budget, 4.0) | {"temperature": 1.0}
    settings["trained"]["tasks"] = ["text-to-image", "paint", *(_served(sizes) if base_name(folder) == "tasks" else [])]
    text = lakeside.text_tokenizer(sizes.variety.unlearned()).to_str(pretty=True)
    save_checkpoint(target, base_model(folder, sizes, CPU), image_tokenizer(folder, sizes, CPU), text, settings, dtype=torch.float16)
    if base_dtype != torch.float16:
        source = TensorSource.open(target / SINGLE)
        write_tensors(target / SINGLE, base_tensors(source, BASE_PREFIX, base_dtype, QUANTISABLE), {"kind": KIND_BASE})
    _save_head(folder, "head", ShortcutHead(sizes.head()), target)
    return target


def _served(sizes: Sizes) -> list[str]:
    """The tasks that the base has learned after text to image, by the engine's names."""
    names = {name: UNDERSTANDING if TASKS[name].words else name for name in sizes.tasks}
    return list(dict.fromkeys(names.values()))


def _maskgit(folder: Path, sizes: Sizes) -> Path:
    target, config = folder / "maskgit", sizes.class_base()
    base = class_base_model(folder, sizes, CPU)
    vqgan = as_vqgan(image_tokenizer(folder, sizes, CPU), sizes.pixels)
    write_tensors(target / SINGLE, stored(names.Layout(base, names.BACKBONE).published(base.state_dict()), torch.float16), {"kind": write.KIND_BASE})
    tensors = names.Layout(vqgan, names.IMAGE_TOKENIZER).published(vqgan.state_dict())
    write_tensors(target / VQGAN_FOLDER / "last.safetensors", stored(tensors, torch.float16), {"kind": write.KIND_IMAGE_TOKENIZER})
    layout = {"model": {"target": "taming.models.vqgan.VQModel", "params": vqgan.config.to_params()}}
    (target / VQGAN_FOLDER / VQGAN_CONFIG).write_text(json.dumps(layout, indent=2) + "\n", encoding="utf-8")  # JSON is YAML
    _write(target / "config.json", _said(config))
    kinds = sizes.classes
    settings = _settings(sizes.pixels, kinds.steps[0], kinds.budgets[0], CLASS_GUIDANCE)
    _write(target / "generation_config.json", settings | {"softmax_temperature": kinds.softmax_temperature})
    _save_head(folder, "class-head", MaskGitHead(sizes.class_head()), target)
    return target


def _said(config: MaskGitConfig) -> dict:
    """What shapes do not tell."""
    said = {"model_type": "maskgit", "n_heads": config.n_heads, "codebook_size": config.codebook_size, "n_classes": config.n_classes}
    return said | {"class_names": list(lakeside.CLASS_NAMES)}


def _settings(pixels: int, steps: int, budget: int, guidance_scale: float) -> dict:
    settings = {"width": pixels, "height": pixels, "steps": steps, "budget": budget, "guidance_scale": guidance_scale}
    return settings | {"trained": {"sizes": [[pixels, pixels]], "guidance": True}}


def _save_head(folder: Path, name: str, head: nn.Module, target: Path) -> None:
    if (folder / f"{name}.safetensors").exists():
        save_head(target / SHORTCUT, trained(folder, name, head, CPU), dtype=torch.float16)


def _write(path: Path, values: dict) -> None:
    path.write_text(as_json(values, indent=2) + "\n", encoding="utf-8")
