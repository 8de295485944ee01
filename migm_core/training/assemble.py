"""Put the trained parts together: a published-layout folder from the training runs' checkpoints."""

from pathlib import Path

import torch

from ..checkpoints import save_checkpoint
from ..models.image_tokenizer import ImageTokenizer
from ..models.lumina import Lumina
from . import base, tokenizer
from .patches import PatchCodebook
from .vocabulary import demo_text_tokenizer


def assemble(folder: str | Path, image_tokenizer: ImageTokenizer, codebook: PatchCodebook, settings: dict) -> Path:
    """Write ``folder/checkpoint`` from ``folder/base`` and an image tokenizer, in float16, and return its path.

    Args:
        codebook: that both were trained with; training that starts from the checkpoint needs it.
        settings: sensible defaults of a run.
    """
    folder = Path(folder)
    weights = _trained(folder / "base")
    layers = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    model = Lumina(base.demo_config(image_tokenizer.config.num_vq_embeddings, layers), output_rows="all")
    model.load_state_dict(weights)
    text = demo_text_tokenizer().backend_tokenizer.to_str(pretty=True)
    save_checkpoint(folder / "checkpoint", model, image_tokenizer, text, settings, dtype=torch.float16)
    codebook.save(folder / "checkpoint" / "codebook.safetensors")
    return folder / "checkpoint"


def trained_image_tokenizer(folder: str | Path, codes: int) -> ImageTokenizer:
    """The image tokenizer of ``folder/tokenizer``, with a codebook of so many codes."""
    image_tokenizer = ImageTokenizer(tokenizer.demo_config(codes))
    image_tokenizer.load_state_dict(_trained(Path(folder) / "tokenizer"))
    return image_tokenizer


def _trained(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)["model"]
