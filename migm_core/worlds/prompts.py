"""Prompts of the bundled models' world, for a model that knows its words."""

import torch

from ..checkpoints import Checkpoint
from . import lakeside
from .lakeside.sampling import join

AT_ONCE = 64  # scenes


def prompts_of_scenes(checkpoint: Checkpoint, count: int, split: str, seed: int, advice: str) -> tuple[lakeside.Scenes, list[str]]:
    """Random scenes that the bundled models know, and a prompt for each. More of them begin with the same ones.

    Args:
        split: "train", "dev" or "test".
        advice: a sentence for who has another model.

    Raises:
        ValueError: the model takes no text, or does not know the words.
    """
    if checkpoint.family.takes != "text":
        raise ValueError(f"This model takes {checkpoint.family.takes}, not prompts. {advice}")
    generator = torch.Generator().manual_seed(seed)
    scenes = join([lakeside.sample_scenes(AT_ONCE, generator, split, lakeside.BUNDLED) for _ in range(0, count, AT_ONCE)])[:count]
    texts = lakeside.prompts(scenes, seed)
    if unknown := list(dict.fromkeys(word.lower() for word in checkpoint.family.unknown_words(checkpoint, texts))):
        more = ", ..." if len(unknown) > 5 else ""
        raise ValueError(f"This model does not know these words of the lakeside world: {', '.join(unknown[:5])}{more}. {advice}")
    return scenes, texts
