"""The image tokenizer: pixels to codebook indices and back.

The network is the VQ model of aMUSEd (arXiv 2401.01808), which Lumina-DiMOO reuses, with the parameter names and config
keys of a diffusers ``VQModel`` folder. ``operations`` supplies Conv2d, GroupNorm and Embedding, so that a host
can own precision and placement.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import shown
from .tiled_decoding import decode_tiled
from .vector_quantised import LARGEST, Quantizer, VectorQuantised, is_size

# What this implementation computes; a file that asks for anything else is refused rather than misread. null asks for nothing.
_ONLY = {
    "_class_name": ("VQModel",),
    "act_fn": ("silu", "swish"),
    "mid_block_add_attention": (False,),
    "lookup_from_codebook": (True,),
    "norm_type": ("group",),
    "in_channels": (3,),
    "out_channels": (3,),
}
_BLOCK_TYPES = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
# Always computed in float32, whatever force_upcast says; codes are not scaled; any image size works.
_HARMLESS = {"force_upcast", "scaling_factor", "sample_size"}

MOST_STAGES = 20  # each halves the sides of an image


@dataclass(frozen=True)
class ImageTokenizerConfig:
    """The fields of the tokenizer's ``config.json`` that the network depends on."""

    block_out_channels: tuple[int, ...] = (128, 256, 256, 512, 768)
    latent_channels: int = 64
    num_vq_embeddings: int = 8192
    layers_per_block: int = 2
    norm_num_groups: int = 32
    in_channels: int = 3
    out_channels: int = 3
    vq_embed_dim: int | None = None

    @property
    def downscale_factor(self) -> int:
        """Pixels per token along each side."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def channels(self) -> list[int]:
        """Of each level, the finest first."""
        return list(self.block_out_channels)

    @property
    def code_channels(self) -> int:
        return self.vq_embed_dim or self.latent_channels

    @classmethod
    def from_json(cls, values: dict, source: str = "config.json") -> "ImageTokenizerConfig":
        """Read a diffusers ``VQModel`` config.

        Raises:
            ValueError: a key asks for an architecture other than the one implemented here, or has a senseless value.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{source}: expected a JSON object, found {type(values).__name__}.")
        for key, allowed in _ONLY.items():
            if values.get(key) is not None and values[key] not in allowed:
                expected = " or ".join(map(repr, allowed))
                raise ValueError(
                    f"{source}: {key} is {shown(values[key])}, but only {expected} is supported. "
                    "Use an image tokenizer of the aMUSEd / Lumina-DiMOO kind."
                )
        known = {name: values[name] for name in cls.__dataclass_fields__ if values.get(name) is not None and name not in _ONLY}
        channels = known.get("block_out_channels", cls.block_out_channels)
        if not isinstance(channels, (list, tuple)) or not 1 <= len(channels) <= MOST_STAGES or not all(is_size(channel) for channel in channels):
            raise ValueError(f"{source}: block_out_channels is {shown(channels)}, expected a list of 1 to {MOST_STAGES} integers from 1 to {LARGEST}.")
        known["block_out_channels"] = tuple(channels)
        config = cls(**known)
        for name in ("latent_channels", "num_vq_embeddings", "layers_per_block", "norm_num_groups", "vq_embed_dim"):
            value = getattr(config, name)
            if not is_size(value) and (name, value) != ("vq_embed_dim", None):
                raise ValueError(f"{source}: {name} is {shown(value)}, expected an integer from 1 to {LARGEST}.")
        if wrong := [channel for channel in channels if channel % config.norm_num_groups]:
            raise ValueError(f"{source}: block_out_channels holds {wrong[0]}, which norm_num_groups {config.norm_num_groups} does not divide.")
        for key, block in _BLOCK_TYPES.items():
            blocks = values.get(key)
            if blocks is not None and blocks != [block] * len(channels):
                raise ValueError(f"{source}: {key} is {shown(blocks)}, but only {block} is supported, once for each of the {len(channels)} block_out_channels.")
        return config

    def to_json(self) -> dict:
        """The config as diffusers writes it, so that ``VQModel.from_pretrained`` reads it too."""
        blocks = len(self.block_out_channels)
        return {
            "_class_name": "VQModel",
            "act_fn": "silu",
            "block_out_channels": list(self.block_out_channels),
            "down_block_types": ["DownEncoderBlock2D"] * blocks,
            "force_upcast": True,
            "in_channels": self.in_channels,
            "latent_channels": self.latent_channels,
            "layers_per_block": self.layers_per_block,
            "lookup_from_codebook": True,
            "mid_block_add_attention": False,
            "norm_num_groups": self.norm_num_groups,
            "norm_type": "group",
            "num_vq_embeddings": self.num_vq_embeddings,
            "out_channels": self.out_channels,
            "scaling_factor": 0.18215,
            "up_block_types": ["UpDecoderBlock2D"] * blocks,
            "vq_embed_dim": self.vq_embed_dim,
        }


def unknown_keys(values: dict) -> list[str]:
    """Unknown keys of a config that are set to something; they are ignored."""
    known = {*_ONLY, *_BLOCK_TYPES, *_HARMLESS, *ImageTokenizerConfig.__dataclass_fields__}
    return [key for key, value in values.items() if key not in known and not key.startswith("_") and value not in (None, False, "", 0, [], {})]


class ResnetBlock(nn.Module):
    """Norm, SiLU, convolution, twice, around a residual; (B, in, H, W) to (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, *, dtype, device, operations):
        super().__init__()
        kw = {"dtype": dtype, "device": device}
        self.norm1 = operations.GroupNorm(groups, in_channels, eps=1e-6, **kw)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1, **kw)
        self.norm2 = operations.GroupNorm(groups, out_channels, eps=1e-6, **kw)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1, **kw)
        if in_channels != out_channels:
            self.conv_shortcut = operations.Conv2d(in_channels, out_channels, 1, **kw)
        else:
            self.conv_shortcut = None

    def forward(self, x: Tensor) -> Tensor:
        return self.second(x, self.first(x, self.norm1), self.norm2)

    def first(self, x: Tensor, norm) -> Tensor:
        """The first half; tiled decoding passes a norm with gathered statistics."""
        return self.conv1(F.silu(norm(x), inplace=True))

    def second(self, x: Tensor, h: Tensor, norm) -> Tensor:
        """The second half, from the result ``h`` of the first, and the residual."""
        h = self.conv2(F.silu(norm(h), inplace=True))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nn.Module):
    """Halve height and width. The padding is on the right and bottom only, as in the published weights' training."""

    def __init__(self, channels: int, *, dtype, device, operations):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, stride=2, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width: nearest neighbour, then a convolution."""

    def __init__(self, channels: int, *, dtype, device, operations):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class ResnetStage(nn.Module):
    """A run of residual blocks with an optional change of resolution after it."""

    def __init__(self, channels: list[int], groups: int, *, down: bool = False, up: bool = False, **kw):
        super().__init__()
        pairs = zip(channels[:-1], channels[1:])
        self.resnets = nn.ModuleList(ResnetBlock(a, b, groups, **kw) for a, b in pairs)
        if down:
            self.downsamplers = nn.ModuleList([Downsample(channels[-1], **kw)])
        if up:
            self.upsamplers = nn.ModuleList([Upsample(channels[-1], **kw)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        for resample in [*getattr(self, "downsamplers", ()), *getattr(self, "upsamplers", ())]:
            x = resample(x)
        return x


class Encoder(nn.Module):
    def __init__(self, config: ImageTokenizerConfig, **kw):
        super().__init__()
        channels, groups = config.block_out_channels, config.norm_num_groups
        factory_kwargs = {"dtype": kw["dtype"], "device": kw["device"]}
        self.conv_in = kw["operations"].Conv2d(config.in_channels, channels[0], 3, padding=1, **factory_kwargs)
        self.down_blocks = nn.ModuleList(
            ResnetStage(
                [channels[max(i - 1, 0)]] + [c] * config.layers_per_block, groups, down=i + 1 < len(channels), **kw
            )
            for i, c in enumerate(channels)
        )
        self.mid_block = ResnetStage([channels[-1]] * 3, groups, **kw)
        self.conv_norm_out = kw["operations"].GroupNorm(groups, channels[-1], eps=1e-6, **factory_kwargs)
        self.conv_out = kw["operations"].Conv2d(channels[-1], config.latent_channels, 3, padding=1, **factory_kwargs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x)), inplace=True))


class Decoder(nn.Module):
    def __init__(self, config: ImageTokenizerConfig, **kw):
        super().__init__()
        channels, groups = config.block_out_channels[::-1], config.norm_num_groups
        factory_kwargs = {"dtype": kw["dtype"], "device": kw["device"]}
        self.conv_in = kw["operations"].Conv2d(config.latent_channels, channels[0], 3, padding=1, **factory_kwargs)
        self.mid_block = ResnetStage([channels[0]] * 3, groups, **kw)
        self.up_blocks = nn.ModuleList(
            ResnetStage(
                [channels[max(i - 1, 0)]] + [c] * (config.layers_per_block + 1), groups, up=i + 1 < len(channels), **kw
            )
            for i, c in enumerate(channels)
        )
        self.conv_norm_out = kw["operations"].GroupNorm(groups, channels[-1], eps=1e-6, **factory_kwargs)
        self.conv_out = kw["operations"].Conv2d(channels[-1], config.out_channels, 3, padding=1, **factory_kwargs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x), inplace=True))


class ImageTokenizer(VectorQuantised):
    """Encoder, codebook and decoder.

    Args:
        config: sizes, as in the folder's ``config.json``.
        dtype, device: of the parameters.
        operations: namespace with Conv2d, GroupNorm and Embedding; torch.nn by default.
    """

    def __init__(self, config: ImageTokenizerConfig, *, dtype=None, device=None, operations=nn):
        super().__init__()
        self.config = config
        kw = {"dtype": dtype, "device": device, "operations": operations}
        factory_kwargs = {"dtype": dtype, "device": device}
        self.encoder = Encoder(config, **kw)
        self.quant_conv = operations.Conv2d(config.latent_channels, config.code_channels, 1, **factory_kwargs)
        self.quantize = Quantizer(config.num_vq_embeddings, config.code_channels, **kw)
        self.post_quant_conv = operations.Conv2d(config.code_channels, config.latent_channels, 1, **factory_kwargs)
        self.decoder = Decoder(config, **kw)

    def latents(self, images: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(images))

    def decode_latents(self, quantised: Tensor, tile: int = 0) -> Tensor:
        latents = self.post_quant_conv(quantised)
        return decode_tiled(self.decoder, latents, tile) if tile else self.decoder(latents)
