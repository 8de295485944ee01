"""The base model: MaskGIT's bidirectional transformer over image tokens and a class token (arXiv 2202.04200, 2310.14400)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...canvas import Canvas
from ...modules.transformer import KeyValueCache
from ...sampling.backbone import Branch
from .config import MaskGitConfig
from .layers import Attention, FeedForward, InputLayer, OutputLayer
from .sequence import Sequence


class Block(nn.Module):
    """Attention and a feed-forward layer, each after its norm and around a residual."""

    def __init__(self, config: MaskGitConfig, **kw):
        super().__init__()
        self.attention = Attention(config.d_model, config.n_heads, **kw)
        self.feed_forward = FeedForward(config.d_model, config.mlp_hidden_size, **kw)

    def forward(self, x: Tensor, **caching) -> Tensor:
        normed = self.attention.norm(x)
        x = x + self.attention(normed, normed, **caching)
        return x + self.feed_forward(x)


class MaskGit(nn.Module):
    """Token ids to features, and features to logits over the image codes.

    Positions are learned, so a model samples one canvas size. The output projection is the token embedding, with a bias for each
    position.

    Args:
        config: sizes.
        dtype, device: of the parameters.
        operations: namespace with Linear and Embedding; torch.nn by default. A host passes its own here to own precision
            and placement.
    """

    output_layers = ("bias",)
    stored_bits = 16

    def __init__(self, config: MaskGitConfig, *, dtype=None, device=None, operations=nn):
        super().__init__()
        self.config = config
        factory_kwargs = {"dtype": dtype, "device": device}
        kw = {**factory_kwargs, "operations": operations}
        self.tok_emb = operations.Embedding(config.vocab_size, config.d_model, **factory_kwargs)
        self.pos_emb = nn.Parameter(torch.zeros(1, config.length, config.d_model, **factory_kwargs))
        self.first_layer = InputLayer(config.d_model, **kw)
        self.blocks = nn.ModuleList(Block(config, **kw) for _ in range(config.n_layers))
        self.last_layer = OutputLayer(config.d_model, **kw)
        self.bias = nn.Parameter(torch.zeros(config.length, config.vocab_size, **factory_kwargs))

    @property
    def device(self) -> torch.device:
        return self.pos_emb.device

    @property
    def dtype(self) -> torch.dtype:
        return self.pos_emb.dtype

    def sequence(self, branch: Branch, canvas: Canvas) -> Sequence:
        """The tokens of a guidance branch.

        Raises:
            ValueError: the canvas is of another size than the model's.
        """
        return Sequence(branch, canvas, self.config)

    def features(self, sequence: Sequence, cache: KeyValueCache | None = None) -> Tensor:
        """Last hidden states after the final norm, (B, L + 1, d_model); the class position is the last. Fills ``cache`` if one is given."""
        return self.features_of(sequence.tokens, cache)

    def features_of(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """``features`` of token ids (B, L + 1)."""
        x = self.first_layer(self._embedded(tokens, slice(None)))
        for layer, block in enumerate(self.blocks):
            x = block(x, cache=cache, layer=layer)
        return self.last_layer(x)

    def features_at(self, sequence: Sequence, positions: Tensor, cache: KeyValueCache) -> Tensor:
        """Features of some positions (B, n), the others' keys and values taken from ``cache``: (B, n, d_model).

        The cached rows of the recomputed positions are replaced.
        """
        x = self.first_layer(self.embed(sequence, positions))
        for layer, block in enumerate(self.blocks):
            x = block(x, cache=cache, layer=layer, positions=positions)
        return self.last_layer(x)

    def embed(self, sequence: Sequence, positions: Tensor) -> Tensor:
        """Token and position embeddings of some positions (B, n), as the head reads them: (B, n, d_model)."""
        return self._embedded(sequence.tokens.gather(1, positions), positions)

    def code_logits(self, features: Tensor, positions: Tensor) -> Tensor:
        """Logits over the image codes: features (B, n, d_model) at positions (B, n) to (B, n, K)."""
        return self._logits(features, positions, slice(self.config.codebook_size))

    def logits(self, features: Tensor) -> Tensor:
        """Logits of whole sequences over the whole vocabulary: (B, L + 1, d_model) to (B, L + 1, V)."""
        return self._logits(features, slice(None), slice(None))

    def _embedded(self, tokens: Tensor, positions: Tensor | slice) -> Tensor:
        embedded = self.tok_emb(tokens)
        # A host may hold the table on another device or in another dtype; in place, this is no copy.
        return embedded + self.pos_emb[0].to(embedded)[positions]

    def _logits(self, features: Tensor, positions: Tensor | slice, vocabulary: slice) -> Tensor:
        weight, bias = self.tok_emb.weight[vocabulary].to(features), self.bias[:, vocabulary].to(features)
        return F.linear(features, weight).add_(bias[positions])
