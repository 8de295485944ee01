"""An image tokenizer whose outermost level learns last: until then the pictures that it decodes are half as large, at less than half the cost."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tokenizers.amused_vq import ImageTokenizer


class InnerLevels(nn.Module):
    """A tokenizer as its training sees it. The outermost residual block of its encoder adds nothing for good, and is not computed.

    Args:
        tokenizer: whose two outermost levels have the same channels.
        norm: class of group norms, as the tokenizer's.

    Attributes:
        outer: whether the decoder's outermost level is computed. As long as it is not, it does not learn.

    Raises:
        ValueError: these levels have other channels.
    """

    def __init__(self, tokenizer: ImageTokenizer, norm: type[nn.Module] = nn.GroupNorm):
        super().__init__()
        config = tokenizer.config
        if len(config.block_out_channels) < 2 or config.block_out_channels[0] != config.block_out_channels[1]:
            raise ValueError(f"block_out_channels is {config.block_out_channels}, expected two equal numbers at its start, so that the outermost level can wait.")
        self.tokenizer, self.outer = tokenizer, False
        self.norm = norm(config.norm_num_groups, config.block_out_channels[0], eps=1e-6)
        self.to_pixels = nn.Conv2d(config.block_out_channels[0], config.out_channels, 3, padding=1)
        nn.init.constant_(self.to_pixels.bias, 0.5)  # grey
        for resnet in tokenizer.encoder.down_blocks[0].resnets.requires_grad_(False):
            _add_nothing(resnet)
        for module in self._outer_modules():
            module.requires_grad_(False)

    def _outer_modules(self) -> list[nn.Module]:
        """Of the decoder, from the last enlargement on."""
        decoder = self.tokenizer.decoder
        return [decoder.up_blocks[-2].upsamplers, decoder.up_blocks[-1], decoder.conv_norm_out, decoder.conv_out]

    def latents(self, images: Tensor) -> Tensor:
        """As the tokenizer's."""
        encoder = self.tokenizer.encoder
        first, *inner = encoder.down_blocks
        x = first.downsamplers[0](encoder.conv_in(images))
        for block in inner:
            x = block(x)
        x = encoder.conv_out(F.silu(encoder.conv_norm_out(encoder.mid_block(x))))
        return self.tokenizer.quant_conv(x)

    def decode_latents(self, quantised: Tensor) -> Tensor:
        """As the tokenizer's; pictures of half the size while the outermost level waits."""
        if self.outer:
            return self.tokenizer.decode_latents(quantised)
        decoder = self.tokenizer.decoder
        x = decoder.mid_block(decoder.conv_in(self.tokenizer.post_quant_conv(quantised)))
        for block in decoder.up_blocks[:-2]:
            x = block(x)
        for resnet in decoder.up_blocks[-2].resnets:
            x = resnet(x)
        return self.to_pixels(F.silu(self.norm(x)))

    def begin_outer(self) -> None:
        """Let the outermost level begin with about what the inner ones show, enlarged."""
        begin_outer(self.tokenizer, self.norm, self.to_pixels)

    def use_outer(self) -> None:
        """From now on pictures have their full size; the outermost level learns, and the way out of the inner ones no more."""
        self.outer = True
        for module in self._outer_modules():
            module.requires_grad_(True)
        self.norm.requires_grad_(False)
        self.to_pixels.requires_grad_(False)


@torch.no_grad()
def begin_outer(tokenizer: ImageTokenizer, norm: nn.Module, to_pixels: nn.Module) -> None:
    """Make a decoder's outermost level enlarge what ``to_pixels`` makes of the features before it, nearly; it ends in the same norm and convolution."""
    decoder = tokenizer.decoder
    enlarge = decoder.up_blocks[-2].upsamplers[0].conv
    nn.init.dirac_(enlarge.weight)
    nn.init.zeros_(enlarge.bias)
    for resnet in decoder.up_blocks[-1].resnets:
        _add_nothing(resnet)
    decoder.conv_norm_out.load_state_dict(norm.state_dict())
    decoder.conv_out.load_state_dict(to_pixels.state_dict())


def adds_nothing(resnet: nn.Module) -> bool:
    """Whether a residual block was left out of a training that learned its outermost level last."""
    return resnet.conv_shortcut is None and not (resnet.conv2.weight.any() or resnet.conv2.bias.any())


def _add_nothing(resnet: nn.Module) -> None:
    nn.init.zeros_(resnet.conv2.weight)
    nn.init.zeros_(resnet.conv2.bias)
