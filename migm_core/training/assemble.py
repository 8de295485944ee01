"""Put the trained parts together: a published-layout folder from the training runs' checkpoints."""

import shutil
from pathlib import Path

import torch

from ..checkpoints import save_checkpoint
from ..models.image_tokenizer import ImageTokenizer
from ..models.lumina import Lumina
from . import base, tokenizer
from .vocabulary import demo_text_tokenizer


def assemble(folder: str | Path, codes: int, settings: dict) -> Path:
    """Write ``folder/checkpoint`` from ``folder/base`` and ``folder/tokenizer``, in float16, and return its path.

    Args:
        codes: size of the codebook.
        settings: sensible defaults of a run.
    """
    folder = Path(folder)
    weights, image_weights = (
        torch.load(folder / part / "checkpoint.pt", map_location="cpu", weights_only=True)["model"] for part in ("base", "tokenizer")
    )
    layers = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    model = Lumina(base.demo_config(codes, layers), output_rows="all")
    model.load_state_dict(weights)
    image_tokenizer = ImageTokenizer(tokenizer.demo_config(codes))
    image_tokenizer.load_state_dict(image_weights)
    text = demo_text_tokenizer().backend_tokenizer.to_str(pretty=True)
    save_checkpoint(folder / "checkpoint", model, image_tokenizer, text, settings, dtype=torch.float16)
    shutil.copy(folder / "codebook.safetensors", folder / "checkpoint")  # for training that starts from this checkpoint
    return folder / "checkpoint"
