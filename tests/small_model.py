"""A tiny checkpoint with random weights, in the published layout, and a head for it: what tests load, damage and run."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from migm_core.checkpoints import save_head
from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.config import LuminaConfig
from migm_core.families.lumina_dimoo.head import ShortcutConfig, ShortcutHead
from migm_core.families.lumina_dimoo.write import save_checkpoint
from migm_core.sampling.methods import Vanilla
from migm_core.tokenizers.amused_vq import ImageTokenizer, ImageTokenizerConfig
from migm_core.worlds import lakeside

CODES = 32
FACTOR = 8
SETTINGS = {"width": 32, "height": 32, "steps": 8, "budget": 3, "guidance_scale": 2.0, "temperature": 1.0}
OWN = {**SETTINGS, "remasking": "exact"}  # with what fills them
PROMPT = "a large red house left of a yellow tree at sunset"


@dataclass(frozen=True)
class SmallModel:
    """A checkpoint folder and the file of its head."""

    folder: Path
    head: Path


def make_small_model(folder: Path, *, seed: int = 0, **sizes) -> SmallModel:
    """Write ``folder/model`` and ``folder/shortcut.safetensors``; ``sizes`` override fields of LuminaConfig."""
    torch.manual_seed(seed)
    config = small_config(**sizes)
    base = scatter(Lumina(config, output_rows=(0, config.vocab_size)))
    image_tokenizer = scatter(ImageTokenizer(small_image_tokenizer_config()))
    text = lakeside.text_tokenizer().to_str()
    save_checkpoint(folder / "model", base, image_tokenizer, text, SETTINGS)
    return SmallModel(folder / "model", make_small_head(folder / "shortcut.safetensors", config))


def small_config(**sizes) -> LuminaConfig:
    tokens = lakeside.text_layout(CODES)
    values = {"d_model": 32, "n_heads": 2, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 64, "vocab_size": tokens.image_codes + CODES}
    return LuminaConfig(**{**values, "tokens": tokens, **sizes})


def small_image_tokenizer_config() -> ImageTokenizerConfig:
    return ImageTokenizerConfig(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, num_vq_embeddings=CODES, layers_per_block=1, norm_num_groups=4
    )


def make_small_head(path: Path, base: LuminaConfig, *, seed: int = 1, **variant) -> Path:
    """Write a head for a base model; ``variant`` overrides fields of ShortcutConfig."""
    torch.manual_seed(seed)
    sizes = {"d_model": base.d_model, "n_heads": base.n_heads, "mlp_hidden_size": base.mlp_hidden_size}
    save_head(path, scatter(ShortcutHead(ShortcutConfig(**{**sizes, **variant}))))
    return path


@torch.no_grad()
def scatter(model: nn.Module) -> nn.Module:
    """Weights large enough that every part of a model moves its output, and no two likelihoods tie."""
    for name, tensor in model.named_parameters():
        if tensor.dim() == 1:  # norms' weights around 1, biases around 0
            tensor.add_(torch.randn_like(tensor) * 0.1)
        elif "embedding" in name or "wte" in name:
            tensor.normal_()
        else:
            tensor.normal_(std=1.5 / tensor[0].numel() ** 0.5)
    return model


def shard(folder: Path, parts: int = 3) -> None:
    """Split a checkpoint folder's model.safetensors into shards with their index, as published."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"model-{k % parts + 1:05}-of-{parts:05}.safetensors" for k, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name].clone() for name in tensors if weight_map[name] == file}, folder / file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def edit_tensors(path: Path, edit) -> None:
    """Rewrite a safetensors file: ``edit`` gets the table of tensors and changes it."""
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    edit(tensors)
    save_file(tensors, path)


def edit_json(path: Path, **values) -> None:
    write_json(path, {**json.loads(path.read_text()), **values})


def write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values))


class ShapesOfNoise:
    """Noise for the meta device, which has no generators: its shapes alone."""

    def draw(self, step: int, masked: torch.Tensor, codes: int, kind: str | None) -> tuple[torch.Tensor, torch.Tensor]:
        return masked.new_empty(*masked.shape, codes, dtype=torch.float32), masked.new_empty(masked.shape, dtype=torch.float32)

    def skip(self, step: int, masked: torch.Tensor, codes: int) -> None:
        pass


class EveryBranch(Vanilla):
    """Vanilla that computes the branches that do not count at a step, too, as the published runs do."""

    def start(self, backbone, sequences, mask_ratios):
        run = super().start(backbone, sequences, mask_ratios)
        return SimpleNamespace(features=lambda step: run.features(replace(step, branches=None)))
