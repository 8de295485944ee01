"""Put the trained parts together: a folder in the published layout."""

from pathlib import Path

import torch

from ...families.lumina_dimoo.backbone import Lumina
from ...families.lumina_dimoo.write import save_checkpoint
from ...tokenizers.amused_vq import ImageTokenizer
from ...training.run import not_ours, read_checkpoint
from .patches import PatchCodebook
from .train_tokenizer import demo_config
from .vocabulary import demo_text_tokenizer


def assemble(folder: str | Path, base: Lumina, image_tokenizer: ImageTokenizer, codebook: PatchCodebook, settings: dict) -> Path:
    """Write ``folder/checkpoint``, in float16, and return its path.

    Args:
        base: with all output rows.
        codebook: that both were trained with; training that starts from the checkpoint needs it.
        settings: sensible defaults of a run.
    """
    target = Path(folder) / "checkpoint"
    save_checkpoint(target, base, image_tokenizer, demo_text_tokenizer().to_str(pretty=True), settings, dtype=torch.float16)
    codebook.save(target / "codebook.safetensors")
    return target


def trained_image_tokenizer(folder: str | Path, codes: int) -> ImageTokenizer:
    """The image tokenizer of ``folder/tokenizer``, with a codebook of so many codes.

    Raises:
        ValueError: its checkpoint is damaged, or of another tokenizer.
    """
    path, image_tokenizer = Path(folder) / "tokenizer" / "checkpoint.pt", ImageTokenizer(demo_config(codes))
    try:
        image_tokenizer.load_state_dict(read_checkpoint(path)["learner"]["model"])
    except (RuntimeError, KeyError, TypeError) as error:
        raise not_ours(path, error) from None
    return image_tokenizer
