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
    config = base.demo_config(codes)
    model = Lumina(config, output_rows="all")
    image_tokenizer = ImageTokenizer(tokenizer.demo_config(codes))
    for trained, part in ((model, "base"), (image_tokenizer, "tokenizer")):
        state = torch.load(folder / part / "checkpoint.pt", map_location="cpu", weights_only=True)
        trained.load_state_dict(state["model"])
    text = demo_text_tokenizer().backend_tokenizer.to_str(pretty=True)
    save_checkpoint(folder / "checkpoint", model, image_tokenizer, text, settings, dtype=torch.float16)
    shutil.copy(folder / "codebook.safetensors", folder / "checkpoint")  # for training that starts from this checkpoint
    return folder / "checkpoint"
