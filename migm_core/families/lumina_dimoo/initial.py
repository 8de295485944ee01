"""Weights to begin a training with: new ones, and those of a smaller model that was trained."""

import copy
import dataclasses

import torch
from torch import Tensor, nn

from ...modules.transformer import Block
from .backbone import Lumina
from .head import ShortcutConfig, ShortcutHead


def initialise(model: Lumina) -> None:
    """Each block starts as the identity and the logits at zero, which suits Muon."""
    for block in model.blocks:
        nn.init.zeros_(block.attn_out.weight)
        nn.init.zeros_(block.ff_out.weight)
    nn.init.zeros_(model.ff_out.weight)


def deepened(model: Lumina, layers: int) -> Lumina:
    """A model of more layers that computes the same: copies of blocks among them, with outputs of zero (LLaMA Pro, arXiv 2401.02415)."""
    deeper = Lumina(dataclasses.replace(model.config, n_layers=layers), output_rows="all")
    sources = [index * model.config.n_layers // layers for index in range(layers)]
    blocks = [copy.deepcopy(model.blocks[source]) for source in sources]
    for index in range(1, layers):
        if sources[index] == sources[index - 1]:
            nn.init.zeros_(blocks[index].attn_out.weight)
            nn.init.zeros_(blocks[index].ff_out.weight)
    deeper.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("blocks.")}, strict=False)
    deeper.blocks = nn.ModuleList(blocks)
    return deeper


@torch.no_grad()
def widened(head: ShortcutHead, config: ShortcutConfig) -> ShortcutHead:
    """A head of another width that begins about where a narrower one is.

    It computes the same where its rotary embedding has all frequencies of the narrow one's; else each goes on as the nearest.
    Other sizes than the width are the narrow head's.

    Raises:
        ValueError: the head has no projections to a width of its own, or is not narrower.
    """
    old = head.config
    if not (old.projects and config.projects) or config.width <= old.width:
        raise ValueError(f"A head of width {old.width} is to become one of width {config.width}; expected a larger width, below the base's {old.d_model}.")
    wide = ShortcutHead(config)
    scale = (old.width / config.width) ** 0.5  # the zeros that join the stream lower its mean square
    stream = torch.arange(old.width)
    for linear in ("proj_in", "new_token_proj_in"):
        if hasattr(head, linear):
            _place(getattr(wide, linear), getattr(head, linear), rows=stream)
    _place(wide.proj_out, head.proj_out, columns=stream)
    channels = _attention_channels(old, config)
    for narrow, block in zip(_blocks(head), _blocks(wide)):
        _place(block.q_proj, narrow.q_proj, rows=channels, columns=stream, new_rows=True)  # or the keys: two zeros would never learn
        _place(block.k_proj, narrow.k_proj, rows=channels, columns=stream)
        _place(block.v_proj, narrow.v_proj, rows=channels, columns=stream)
        _place(block.attn_out, narrow.attn_out, rows=stream, columns=channels)
        for linear in ("ff_proj", "up_proj"):
            _place(getattr(block, linear), getattr(narrow, linear), columns=stream)
        _place(block.ff_out, narrow.ff_out, rows=stream)
        block.q_proj.weight.mul_((config.width / old.width) ** 0.5)  # attention divides by the root of the head's size
        for norm in ("attn_norm", "ff_norm"):
            getattr(block, norm).weight[stream] = scale * getattr(narrow, norm).weight
    wide.ln_f.weight[stream] = scale * head.ln_f.weight
    if old.time_embedding:
        (narrow_in, _, narrow_out), (wide_in, _, wide_out) = head.time_embedder.mlp, wide.time_embedder.mlp
        hidden = torch.arange(narrow_in.out_features)
        _place(wide_in, narrow_in, rows=hidden)
        _place(wide_out, narrow_out, rows=stream, columns=hidden)
        scale_and_shift = torch.cat([stream, config.width + stream])
        _place(wide.adaLN_modulation, head.adaLN_modulation, rows=scale_and_shift, columns=stream)
    return wide


def _blocks(head: ShortcutHead) -> list[Block]:
    return [block for pair in head.blocks for block in (pair.cross_attn, pair.self_attn)]


def _attention_channels(old: ShortcutConfig, new: ShortcutConfig) -> Tensor:
    """Where each channel of the narrow head's attention goes: to its own head, and with its rotary partner to the nearest frequency."""
    frequencies = (old.width // old.n_heads // 2, new.width // new.n_heads // 2)
    nearest = (torch.arange(frequencies[0]) * frequencies[1] / frequencies[0]).round().long()
    of_head = torch.cat([nearest, frequencies[1] + nearest])
    return (torch.arange(new.n_heads)[:, None] * 2 * frequencies[1] + of_head).flatten()


def _place(wide: nn.Linear, narrow: nn.Linear, rows: Tensor | None = None, columns: Tensor | None = None, new_rows: bool = False) -> None:
    """Copy a matrix and its bias into some rows and columns of a larger one, all of them where none are given.

    New columns stay random: they read the new part of the stream, which is zero. New rows, which write it, become zero unless
    ``new_rows`` are to stay. Together they change nothing at first, and both learn.
    """
    rows = torch.arange(narrow.out_features) if rows is None else rows
    columns = torch.arange(narrow.in_features) if columns is None else columns
    weight = wide.weight.clone()
    if not new_rows:
        weight.zero_()
    weight[rows] = wide.weight[rows]
    weight[rows[:, None], columns] = narrow.weight
    wide.weight.copy_(weight)
    if narrow.bias is not None:
        wide.bias.zero_()
        wide.bias[rows] = narrow.bias
