"""Decode a large image in tiles, to the same image.

Tiles that are decoded independently show seams: a group norm normalises over the whole map, so each tile would have its own
statistics, and its own colours. Here the tiles go through the decoder together, block by block, and each norm gathers its
statistics over all tiles before it normalises one. All other layers are convolutions, which see a few pixels around each
pixel: tiles are cut with a margin. The result differs from whole decoding in the last digits of floats only.

Only the maps between residual blocks are held whole; inside a block one tile is computed at a time. A block's tiles are computed
again for each of its norms, which doubles the time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import shown

SMALLEST_TILE = 64
TILE = 256  # pixels a side, where a whole image has no room
# Pixels around a tile, of the map that it is cut from: the reach of a block's two 3x3 convolutions, and of a third after doubling.
MARGIN = 2


@dataclass(frozen=True)
class Tile:
    """Where one tile is cut from a block's input, and where its result goes in the output.

    Attributes:
        source: rows and columns of the input, with the margin.
        middle: rows and columns of the computed tile, without the margin.
        target: rows and columns of the output.
    """

    source: tuple[slice, slice]
    middle: tuple[slice, slice]
    target: tuple[slice, slice]


class GatheredNorm:
    """A group norm with the statistics of a whole map, gathered from its parts.

    Args:
        norm: with weight and bias (C,).
        parts: (B, C, h, w), which cover the map once.
    """

    def __init__(self, norm: nn.GroupNorm, parts: Iterable[Tensor]):
        means, variances, counts = [], [], []
        for part in parts:
            variance, mean = torch.var_mean(part.unflatten(1, (norm.num_groups, -1)).flatten(2), dim=2, correction=0)
            means.append(mean)
            variances.append(variance)
            counts.append(part[0, 0].numel())
        share = torch.tensor(counts).div(sum(counts)).to(means[0])[:, None, None]
        each = torch.stack(means)
        mean = (share * each).sum(0)
        variance = (share * (torch.stack(variances) + (each - mean).square())).sum(0)
        spread = (variance + norm.eps).rsqrt()
        # A host may hold the weights on another device; in place, this is no copy.
        weight, bias = norm.weight.to(mean), norm.bias.to(mean)
        repeat = norm.num_channels // norm.num_groups
        scale = spread.repeat_interleave(repeat, 1) * weight
        self.scale = scale[:, :, None, None]
        self.shift = (bias - mean.repeat_interleave(repeat, 1) * scale)[:, :, None, None]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)


def decode_bytes(channels: Sequence[int], width: int, height: int, tile: int = 0, *, cuda: bool = True) -> int:
    """Bytes to decode one image of width x height pixels: float32 maps at full resolution, of the widest of the last two stages.

    These are a convolution's input and output and the block's own, three; on CUDA cuDNN's copies of two of them in another layout,
    too: 4.5 in all, measured on an H100. In tiles: two whole ones of the last stage, and as many of a tile with its margins.

    Args:
        channels: of each level, the finest first.
        tile: pixels a side; 0 for whole.
    """
    per_pixel = (4.5 if cuda else 3) * 4 * max(channels[:2])
    whole = width * height * per_pixel
    tiled = width * height * channels[0] * 4 * 2 + (tile + 8) ** 2 * per_pixel
    return int(min(whole, tiled) if tile else whole)


def decode_in_room(
    decode: Callable[[Tensor, int], Tensor],
    codes: Tensor,
    tile: int = 0,
    *,
    lacking: type[Exception] = torch.OutOfMemoryError,
    make_room: Callable[[], None] = torch.cuda.empty_cache,
) -> Tensor:
    """Decode codes, in tiles where the memory does not suffice for the whole image, or for so large tiles.

    Args:
        decode: an image tokenizer's.
        lacking: what it raises then.
        make_room: called before the second try.
    """
    try:
        return decode(codes, tile)
    except lacking:
        if 0 < tile <= TILE:
            raise
    # Out here the error no longer holds what the attempt had made.
    make_room()
    return decode(codes, TILE)


def check_tile(tile: int) -> None:
    """Raise a ValueError unless a tile is 0, for whole decoding, or large enough."""
    if tile and tile < SMALLEST_TILE:
        raise ValueError(f"tile is {shown(tile)}, but must be 0, to decode an image whole, or at least {SMALLEST_TILE} pixels.")


def decode_tiled(decoder, x: Tensor, tile: int) -> Tensor:
    """Compute ``decoder(x)``, with at most ``tile`` x ``tile`` pixels inside a block at a time.

    Args:
        decoder: an image tokenizer's Decoder.
        x: (B, C, H, W).
        tile: pixels along each side, at every resolution.
    """
    x = decoder.conv_in(x)
    up = None
    for stage in (decoder.mid_block, *decoder.up_blocks):
        for block in stage.resnets:
            x = tiled_block(block, up, x, tile)
            up = None
        up = next(iter(getattr(stage, "upsamplers", ())), None)
    return tiled_output(decoder.conv_norm_out, decoder.conv_out, x, tile)


def tiled_output(norm: nn.GroupNorm, conv, x: Tensor, tile: int) -> Tensor:
    """The end of a decoder, norm, SiLU and a 3x3 convolution, in tiles."""
    tiles = list(_tiles(x, 1, tile))
    gathered = GatheredNorm(norm, (x[(..., *t.target)] for t in tiles))
    return _joined(x, 1, tiles, lambda part: conv(F.silu(gathered(part), inplace=True)))


def tiled_block(block, up, x: Tensor, tile: int) -> Tensor:
    """Compute a residual block in tiles, after ``up``, which doubles the resolution, if given."""
    scale = 1 if up is None else 2
    enter = up or (lambda part: part)
    tiles = list(_tiles(x, scale, tile))
    if len(tiles) == 1:
        return block(enter(x))

    def middles(compute) -> Iterator[Tensor]:
        return (compute(x[(..., *t.source)])[(..., *t.middle)] for t in tiles)

    norm1 = GatheredNorm(block.norm1, middles(enter))
    norm2 = GatheredNorm(block.norm2, middles(lambda part: block.first(enter(part), norm1)))

    def whole(part: Tensor) -> Tensor:
        part = enter(part)
        return block.second(part, block.first(part, norm1), norm2)

    return _joined(x, scale, tiles, whole)


def _joined(x: Tensor, scale: int, tiles: list[Tile], compute) -> Tensor:
    """Compute a map from x tile by tile."""
    joined = None
    for t in tiles:
        part = compute(x[(..., *t.source)])[(..., *t.middle)]
        if joined is None:
            joined = part.new_empty(*part.shape[:2], x.shape[2] * scale, x.shape[3] * scale)
        joined[(..., *t.target)] = part
    return joined


def _tiles(x: Tensor, scale: int, size: int) -> Iterator[Tile]:
    """Tiles of an output that is ``scale`` times as large as x, row by row."""
    for rows in _stretches(x.shape[2], scale, size):
        for columns in _stretches(x.shape[3], scale, size):
            yield Tile(*zip(rows, columns))


def _stretches(length: int, scale: int, size: int) -> Iterator[tuple[slice, slice, slice]]:
    """Along one side: source, middle and target of each tile."""
    step = size // scale
    for begin in range(0, length, step):
        end = min(begin + step, length)
        first, last = max(0, begin - MARGIN), min(end + MARGIN, length)
        yield slice(first, last), slice((begin - first) * scale, (end - first) * scale), slice(begin * scale, end * scale)
