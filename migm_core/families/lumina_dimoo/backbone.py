"""The base model: Lumina-DiMOO's bidirectional transformer over text and image tokens (arXiv 2510.06308)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...canvas import Canvas
from ...modules.transformer import Block, KeyValueCache, RMSNorm, Rotary
from ...sampling.backbone import Branch
from .config import LuminaConfig
from .sequence import LuminaSequence


class Lumina(nn.Module):
    """Token ids to features, and features to logits over a slice of the vocabulary.

    The output projection holds only the rows of ``output_rows``: by default those of the image codes, which are all that
    generating an image needs (for 8B, 64 MB instead of 1.1 GB in 16-bit). ``text_out`` is a second one with every row, for text:
    None until ``text_output.load_text_output`` has read it.

    Args:
        config: sizes and token layout.
        output_rows: (start, stop) of the output projection's rows, or "all"; None for the image codes.
        dtype, device: of the parameters.
        operations: namespace with Linear and Embedding; torch.nn by default. A host passes its own here to own precision
            and placement.
    """

    output_layers = ("ff_out", "text_out")
    stored_bits = 16

    def __init__(self, config: LuminaConfig, *, output_rows=None, dtype=None, device=None, operations=nn):
        super().__init__()
        self.config = config
        codes = (config.tokens.image_codes, config.tokens.image_codes + config.tokens.codebook_size)
        self.output_start, self.output_stop = (0, config.vocab_size) if output_rows == "all" else output_rows or codes
        factory_kwargs = {"dtype": dtype, "device": device}
        self.wte = operations.Embedding(config.vocab_size, config.d_model, **factory_kwargs)
        self.blocks = nn.ModuleList(
            Block(
                config.d_model,
                config.n_heads,
                config.n_kv_heads,
                config.mlp_hidden_size,
                config.rms_norm_eps,
                operations=operations,
                **factory_kwargs,
            )
            for _ in range(config.n_layers)
        )
        self.ln_f = RMSNorm(config.d_model, config.rms_norm_eps, **factory_kwargs)
        self.ff_out = operations.Linear(config.d_model, self.output_stop - self.output_start, bias=False, **factory_kwargs)
        self.text_out: nn.Module | None = None

    def rotary(self, length: int, device: torch.device) -> Rotary:
        """Tables for positions 0..length-1: made once a run and passed to every call."""
        head_dim = self.config.d_model // self.config.n_heads
        return Rotary.at(torch.arange(length, device=device), head_dim, self.config.rope_theta)

    @property
    def device(self) -> torch.device:
        return self.ln_f.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.ln_f.weight.dtype

    def forward(self, tokens: Tensor, rotary: Rotary, cache: KeyValueCache | None = None) -> Tensor:
        """Features, the last hidden states after the final norm: tokens (B, T) to (B, T, d_model). Fills ``cache`` if one is given."""
        x = self.wte(tokens)
        for layer, block in enumerate(self.blocks):
            x = block(x, rotary, cache=cache, layer=layer)
        return self.ln_f(x)

    def sequence(self, branch: Branch, canvas: Canvas) -> LuminaSequence:
        return LuminaSequence(branch, canvas, self)

    def features(self, sequence: LuminaSequence, cache: KeyValueCache | None = None) -> Tensor:
        return self(sequence.tokens, sequence.rotary, cache)

    def features_at(self, sequence: LuminaSequence, positions: Tensor, cache: KeyValueCache) -> Tensor:
        x = self.embed(sequence, positions)
        rotary = sequence.rotary.rows(positions)
        for layer, block in enumerate(self.blocks):
            x = block(x, rotary, cache=cache, layer=layer, positions=positions)
        return self.ln_f(x)

    def embed(self, sequence: LuminaSequence, positions: Tensor) -> Tensor:
        return self.wte(sequence.tokens.gather(1, positions))

    def code_logits(self, features: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits over the image codes: (..., d_model) to (..., codebook_size), the same at all positions."""
        tokens = self.config.tokens
        start = tokens.image_codes - self.output_start
        if start == 0 and self.output_stop - self.output_start == tokens.codebook_size:
            return self.ff_out(features)
        return F.linear(features, self.ff_out.weight[start : start + tokens.codebook_size])

    @property
    def has_text(self) -> bool:
        """Whether there are logits of all tokens."""
        return self.text_out is not None or (self.output_start, self.output_stop) == (0, self.config.vocab_size)

    def logits(self, features: Tensor) -> Tensor:
        """Logits over every row that there is, all tokens' where ``has_text``: (..., d_model) to (..., rows)."""
        return self.ff_out(features) if self.text_out is None else self.text_out(features)
