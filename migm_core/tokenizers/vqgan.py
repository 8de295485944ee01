"""The VQGAN of taming-transformers (arXiv 2012.09841): pixels to codebook indices and back, with attention at the coarse levels.

``operations`` supplies Conv2d, GroupNorm and Embedding, so that a host can own precision and placement. Modules have the names
of the published state dict, but for one: its ``nin_shortcut`` is ``conv_shortcut`` here, in a residual block that both tokenizers share.
"""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .. import arguments
from .amused_vq import Downsample, ResnetBlock, Upsample
from .tiled_decoding import tiled_block, tiled_output
from .vector_quantised import LARGEST, Quantizer, VectorQuantised, is_size

GROUPS = 32  # of every norm

# What this implementation computes; a file that asks for anything else is refused rather than misread. null asks for nothing.
_ONLY = {"double_z": (False,), "in_channels": (3,), "out_ch": (3,), "resamp_with_conv": (True,), "attn_type": ("vanilla",), "tanh_out": (False,), "give_pre_end": (False,), "use_linear_attn": (False,)}  # fmt: skip
_SIZES = ("ch", "num_res_blocks", "resolution", "z_channels", "embed_dim", "n_embed")


@dataclass(frozen=True)
class VqganConfig:
    """The numbers of a ``model.yaml`` that the network depends on, under their names there. The defaults are the published ImageNet model's.

    Attributes:
        ch, ch_mult: channels at level l, 0 the finest, are ch * ch_mult[l].
        num_res_blocks: residual blocks of each level of the encoder; the decoder has one more.
        resolution, attn_resolutions: level l has attention where resolution / 2^l is among the latter. They do not limit image sizes.
        z_channels: of the encoder's output.
        embed_dim, n_embed: of a codebook vector, and how many there are.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    resolution: int = 256
    attn_resolutions: tuple[int, ...] = (16,)
    z_channels: int = 256
    embed_dim: int = 256
    n_embed: int = 1024

    @property
    def downscale_factor(self) -> int:
        """Pixels per token along each side."""
        return 2 ** (len(self.ch_mult) - 1)

    @property
    def codebook_size(self) -> int:
        return self.n_embed

    @property
    def channels(self) -> list[int]:
        """Of each level, the finest first."""
        return [self.ch * multiple for multiple in self.ch_mult]

    def has_attention(self, level: int) -> bool:
        return self.resolution // 2**level in self.attn_resolutions

    @classmethod
    def from_params(cls, params: dict[str, Any], source: str = "model.yaml") -> "VqganConfig":
        """Read ``model.params`` of a published ``model.yaml``: embed_dim, n_embed and a table ddconfig.

        Raises:
            ValueError: a key is missing, has a senseless value, or asks for an architecture other than the one implemented here.
        """
        layers = params.get("ddconfig") if isinstance(params, dict) else None
        if not isinstance(layers, dict):
            raise ValueError(f"{source}: expected embed_dim, n_embed and a table ddconfig under model.params. Use the model.yaml of a VQGAN of taming-transformers.")
        values = {**layers, **{name: params.get(name) for name in ("embed_dim", "n_embed")}}
        for key, allowed in _ONLY.items():
            if values.get(key) is not None and values[key] not in allowed:
                raise ValueError(f"{source}: {key} is {arguments.shown(values[key])}, but only {allowed[0]!r} is supported. Use a VQGAN of taming-transformers.")
        if params.get("remap") is not None:
            raise ValueError(f"{source}: remap is {arguments.shown(params['remap'])}, but a codebook with some of its codes left out is not supported.")
        for name in _SIZES:
            if not is_size(values.get(name)):
                raise ValueError(f"{source}: {name} is {arguments.shown(values.get(name))}, expected a whole number from 1 to {LARGEST}.")
        for name, least in (("ch_mult", 1), ("attn_resolutions", 0)):
            value = values.get(name)
            if not isinstance(value, (list, tuple)) or not least <= len(value) <= 20 or not all(map(is_size, value)):
                raise ValueError(f"{source}: {name} is {arguments.shown(value)}, expected a list of whole numbers from 1 to {LARGEST}.")
        config = cls(**{name: values[name] for name in _SIZES}, ch_mult=tuple(values["ch_mult"]), attn_resolutions=tuple(values["attn_resolutions"]))
        if wrong := [channels for channels in config.channels if channels % GROUPS or channels > LARGEST]:
            raise ValueError(f"{source}: ch {config.ch} and ch_mult {list(config.ch_mult)} make {wrong[0]} channels at a level, expected a multiple of {GROUPS} up to {LARGEST}.")
        return config

    def to_params(self) -> dict[str, Any]:
        """``model.params`` as taming-transformers reads it."""
        layers = {name: getattr(self, name) for name in ("ch", "num_res_blocks", "resolution", "z_channels")}
        layers |= {"ch_mult": list(self.ch_mult), "attn_resolutions": list(self.attn_resolutions)}
        layers |= {"double_z": False, "in_channels": 3, "out_ch": 3, "dropout": 0.0}
        return {"embed_dim": self.embed_dim, "n_embed": self.n_embed, "ddconfig": layers}


def unknown_keys(params: dict[str, Any]) -> list[str]:
    """Keys of ddconfig that are not known here and set to something: what they ask for is ignored."""
    known = {*_ONLY, *VqganConfig.__dataclass_fields__, "dropout"}
    keys = [key for key, value in params.get("ddconfig", {}).items() if key not in known and value not in (None, False, "", 0, [], {})]
    return [key if isinstance(key, str) else arguments.shown(key) for key in keys]  # YAML has numbers as keys, too


class AttentionBlock(nn.Module):
    """One head of attention over all positions of a map, around a residual; (B, C, H, W) to the same."""

    def __init__(self, channels: int, *, dtype, device, operations):
        super().__init__()
        factory_kwargs = {"dtype": dtype, "device": device}
        self.norm = operations.GroupNorm(GROUPS, channels, eps=1e-6, **factory_kwargs)
        self.q, self.k, self.v, self.proj_out = (operations.Conv2d(channels, channels, 1, **factory_kwargs) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2).unsqueeze(1) for layer in (self.q, self.k, self.v))  # (B, 1, H * W, C)
        attended = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
        return x + self.proj_out(attended.unflatten(2, x.shape[2:]))


class Level(nn.Module):
    """Residual blocks of one resolution, each with attention after it where the level has any, and a change of resolution at the end."""

    def __init__(self, channels_in: int, channels: int, blocks: int, attention: bool, *, down: bool = False, up: bool = False, **kw):
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(channels if j else channels_in, channels, GROUPS, **kw) for j in range(blocks))
        self.attn = nn.ModuleList(AttentionBlock(channels, **kw) for _ in range(blocks if attention else 0))
        if down:
            self.downsample = Downsample(channels, **kw)
        if up:
            self.upsample = Upsample(channels, **kw)

    def layers(self) -> list[nn.Module]:
        """In the order in which they run."""
        layers = []
        for j, block in enumerate(self.block):
            layers += [block, *self.attn[j : j + 1]]
        return layers + [getattr(self, name) for name in ("downsample", "upsample") if hasattr(self, name)]


class Middle(nn.Module):
    """The blocks at the coarsest resolution, between the levels and the codes."""

    def __init__(self, channels: int, **kw):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, GROUPS, **kw)
        self.attn_1 = AttentionBlock(channels, **kw)
        self.block_2 = ResnetBlock(channels, channels, GROUPS, **kw)

    def layers(self) -> list[nn.Module]:
        return [self.block_1, self.attn_1, self.block_2]


class Encoder(nn.Module):
    """Pixels in -1..1, (B, 3, h, w), to (B, z_channels, h / downscale factor, w / downscale factor)."""

    def __init__(self, config: VqganConfig, *, dtype, device, operations):
        super().__init__()
        factory_kwargs = {"dtype": dtype, "device": device}
        kw = {**factory_kwargs, "operations": operations}
        channels = config.channels
        last = len(channels) - 1
        self.conv_in = operations.Conv2d(3, config.ch, 3, padding=1, **factory_kwargs)
        self.down = nn.ModuleList(
            Level(channels[level - 1] if level else config.ch, each, config.num_res_blocks, config.has_attention(level), down=level < last, **kw)
            for level, each in enumerate(channels)
        )
        self.mid = Middle(channels[-1], **kw)
        self.norm_out = operations.GroupNorm(GROUPS, channels[-1], eps=1e-6, **factory_kwargs)
        self.conv_out = operations.Conv2d(channels[-1], config.z_channels, 3, padding=1, **factory_kwargs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for part in (*self.down, self.mid):
            for layer in part.layers():
                x = layer(x)
        return self.conv_out(F.silu(self.norm_out(x), inplace=True))


class Decoder(nn.Module):
    """(B, z_channels, H, W) to pixels of about -1..1, (B, 3, H * downscale factor, W * downscale factor)."""

    def __init__(self, config: VqganConfig, *, dtype, device, operations):
        super().__init__()
        factory_kwargs = {"dtype": dtype, "device": device}
        kw = {**factory_kwargs, "operations": operations}
        channels = config.channels
        above = [*channels[1:], channels[-1]]  # of the level that runs before
        self.conv_in = operations.Conv2d(config.z_channels, channels[-1], 3, padding=1, **factory_kwargs)
        self.mid = Middle(channels[-1], **kw)
        self.up = nn.ModuleList(
            Level(above[level], each, config.num_res_blocks + 1, config.has_attention(level), up=level > 0, **kw)
            for level, each in enumerate(channels)
        )
        self.norm_out = operations.GroupNorm(GROUPS, channels[0], eps=1e-6, **factory_kwargs)
        self.conv_out = operations.Conv2d(channels[0], 3, 3, padding=1, **factory_kwargs)

    def layers(self) -> list[nn.Module]:
        """Those between conv_in and norm_out, in the order in which they run: the coarsest level first."""
        return [layer for part in (self.mid, *reversed(self.up)) for layer in part.layers()]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for layer in self.layers():
            x = layer(x)
        return self.conv_out(F.silu(self.norm_out(x), inplace=True))

    def tiled(self, x: Tensor, tile: int) -> Tensor:
        """What ``forward`` gives, with at most ``tile`` x ``tile`` pixels inside a residual block at a time. Attention sees its whole map."""
        x = self.conv_in(x)
        up = None
        for layer in self.layers():
            if isinstance(layer, Upsample):
                up = layer
            elif isinstance(layer, ResnetBlock):
                x, up = tiled_block(layer, up, x, tile), None
            else:
                x = layer(x)
        return tiled_output(self.norm_out, self.conv_out, x, tile)


class Vqgan(VectorQuantised):
    """Encoder, codebook and decoder.

    Args:
        config: sizes, as in the ``model.yaml``.
        dtype, device: of the parameters.
        operations: namespace with Conv2d, GroupNorm and Embedding; torch.nn by default.
    """

    def __init__(self, config: VqganConfig, *, dtype=None, device=None, operations=nn):
        super().__init__()
        self.config = config
        factory_kwargs = {"dtype": dtype, "device": device}
        kw = {**factory_kwargs, "operations": operations}
        self.encoder = Encoder(config, **kw)
        self.quant_conv = operations.Conv2d(config.z_channels, config.embed_dim, 1, **factory_kwargs)
        self.quantize = Quantizer(config.n_embed, config.embed_dim, **kw)
        self.post_quant_conv = operations.Conv2d(config.embed_dim, config.z_channels, 1, **factory_kwargs)
        self.decoder = Decoder(config, **kw)

    def latents(self, images: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(2 * images - 1))

    def decode_latents(self, quantised: Tensor, tile: int = 0) -> Tensor:
        latents = self.post_quant_conv(quantised)
        pixels = self.decoder.tiled(latents, tile) if tile else self.decoder(latents)
        return (pixels + 1) / 2
