"""What a base's embeddings begin with: words that say the same are alike, and so are image codes that look the same.

A base that learns for hours need not find out from its samples alone that a meadow is grass, or which of a thousand codes are much the same sky.
"""

import torch
from torch import Tensor

from ...families.lumina_dimoo.backbone import Lumina
from ..lakeside.words import MEANINGS, WORDS

SYNONYMS, LOOKS = 0.9, 0.75  # shares of the variance that words of one meaning have in common, and that follows from a code's look
OUTPUT = 0.02  # deviation of the output rows: all codes begin about equally likely


@torch.no_grad()
def embed_alike(model: Lumina, codebook: Tensor) -> None:
    """Set the embeddings of words and image codes, and the output rows of the codes, of a model with all output rows.

    Args:
        codebook: of the image tokenizer, (K, C).
    """
    embeddings = model.wte.weight
    ids = {word: index for index, word in enumerate(WORDS)}
    for values in MEANINGS.values():
        for first, *others in values.values():
            for word in others:
                embeddings[ids[word]] = SYNONYMS**0.5 * embeddings[ids[first]] + (1 - SYNONYMS) ** 0.5 * torch.randn_like(embeddings[0])
    looks = (codebook - codebook.mean(0)) / codebook.std(0).clamp_min(1e-6)
    looks = looks @ torch.randn(looks.shape[1], model.config.d_model) / looks.shape[1] ** 0.5
    looks = LOOKS**0.5 * looks + (1 - LOOKS) ** 0.5 * torch.randn_like(looks)
    first = model.config.tokens.image_codes
    codes = slice(first, first + len(looks))
    embeddings[codes] = looks
    model.ff_out.weight[codes] = OUTPUT * looks
