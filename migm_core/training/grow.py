"""More codes for a trained model: codes that stand for several pictures are split, and what was learned is kept."""

from dataclasses import replace

import torch
from torch import Tensor

from ..models.image_tokenizer import ImageTokenizer
from ..models.lumina import Lumina
from .patches import PatchCodebook, distinct_cells, k_means


def grow_codebook(codebook: PatchCodebook, size: int, seed: int, scenes: int = 4000) -> PatchCodebook:
    """Add centres where a codebook describes the scenes' cells worst; its own keep their places and move a little."""
    if size == len(codebook.centres):
        return codebook
    points = distinct_cells(codebook.side, seed, scenes)
    return PatchCodebook(k_means(points, size, torch.Generator().manual_seed(seed), start=codebook.centres))


@torch.no_grad()
def grow_base(base: Lumina, parents: Tensor) -> Lumina:
    """The base model with all output rows, and a row for each of the codes: a new one begins as a copy of its parent's."""
    tokens = base.config.tokens
    rows = torch.cat([torch.arange(tokens.image_codes), tokens.image_codes + parents])
    tokens = replace(tokens, codebook_size=len(parents))
    grown = Lumina(replace(base.config, vocab_size=len(rows), tokens=tokens), output_rows="all")
    state = base.state_dict()
    grown.load_state_dict({**state, "wte.weight": state["wte.weight"][rows], "ff_out.weight": state["ff_out.weight"][rows]})
    return grown


@torch.no_grad()
def grow_image_tokenizer(model: ImageTokenizer, parents: Tensor, seed: int) -> ImageTokenizer:
    """The image tokenizer with a vector for each of the codes: a new one begins near its parent's."""
    old = model.quantize.embedding.weight
    nudge = 0.3 * old.std() * torch.randn(len(parents), old.shape[1], generator=torch.Generator().manual_seed(seed))
    nudge[: len(old)] = 0
    grown = ImageTokenizer(replace(model.config, num_vq_embeddings=len(parents)))
    grown.load_state_dict({**model.state_dict(), "quantize.embedding.weight": old[parents] + nudge})
    return grown
