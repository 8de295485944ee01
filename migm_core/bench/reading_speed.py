"""How long a pass takes that answers a question on a large picture: whole, and with the picture's keys and values kept from an earlier one."""

from dataclasses import dataclass

import torch
from torch import nn

from ..canvas import Canvas
from ..modules.transformer import KeyValueCache
from ..sampling.backbone import Backbone, BackboneConfig, Branch
from ..sampling.cost import PROMPT
from .clock import clocked

READING = "understanding"
PICTURE_SIDE = 64  # tokens along each side of a picture of 1024x1024 pixels, 16 a token


@dataclass(frozen=True)
class ReadingSpeed:
    """What a pass costs, in one branch.

    Attributes:
        full, cached: seconds.
        full_macs, cached_macs: multiply-adds.
        block: passes of a block, of which the first is full.
        picture: its tokens.
    """

    full: float
    cached: float
    full_macs: int
    cached_macs: int
    block: int
    picture: int

    @property
    def speed_up(self) -> float:
        """Of a block against one of full passes, as timed."""
        return self.block / (1 + (self.block - 1) * self.cached / self.full)

    @property
    def counted_speed_up(self) -> float:
        """The same, as counted."""
        return self.block / (1 + (self.block - 1) * self.cached_macs / self.full_macs)


def picture_tokens(config: BackboneConfig, side: int) -> int:
    """Of a square picture in a prompt: its codes with what frames them, but for the two tokens that frame an answer."""
    return config.sequence_length(0, side, side) - 2


@torch.inference_mode()
def measure_reading(config: BackboneConfig, backbone: Backbone, length: int, block: int, repeats: int, side: int = PICTURE_SIDE) -> ReadingSpeed:
    """Time both kinds of pass half way through a block, with its logits of all tokens.

    Args:
        config: of the base with all layers; the backbone may have fewer, and each that it lacks counts as long as one of them.
        length, block: of the answer, in tokens; a pass writes one.
        repeats: the least of so many times counts.
        side: of the picture, in tokens.
    """
    picture, masked = picture_tokens(config, side), block // 2
    total = PROMPT + picture + length + 2  # the answer's two frames
    # A pass costs what its length does, whatever the tokens are.
    sequence = backbone.sequence(Branch(torch.zeros(total - config.sequence_length(0, 1, 1), dtype=torch.int64), 1.0), Canvas.empty(1, 1, 1, backbone.device))
    answer = torch.arange(total - length - 1, total, device=backbone.device)[None]
    cache, text = KeyValueCache(), nn.Linear(config.width, config.vocab_size, bias=False, dtype=backbone.dtype, device=backbone.device)
    blocks, layers, built = backbone.blocks, config.n_layers, len(backbone.blocks)

    def passed(run):
        return lambda: text(run()[:, :masked]).double().softmax(-1)

    timed = {"full": passed(lambda: backbone.features(sequence)), "cached": passed(lambda: backbone.features_at(sequence, answer, cache))}
    backbone.features(sequence, cache)
    seconds = {(name, count): float("inf") for name in timed for count in {0, built}}
    try:
        for _ in range(repeats):
            for name, count in seconds:
                backbone.blocks = blocks[:count]
                seconds[name, count] = min(seconds[name, count], clocked(timed[name], backbone.device))
    finally:
        backbone.blocks = blocks
    full, cached = (seconds[name, 0] + (seconds[name, built] - seconds[name, 0]) / built * layers for name in timed)
    logits = masked * config.width * config.vocab_size
    return ReadingSpeed(full, cached, config.pass_macs(total, total) + logits, config.pass_macs(length + 1, total) + logits, block, picture)
