"""MaskGIT's part of the recipe: a class-conditional model over the codes of the same image tokenizer.

The aMUSEd VQ model and taming-transformers' VQGAN are one network where the VQGAN's attention adds nothing, and where all
norms have 32 groups. So the trained image tokenizer serves both families: only names differ, and the range of pixels, which the
first and the last convolution take up. The codes at the picture's edge may differ, as one network sees black outside, the other grey.
"""

import torch
from torch import Tensor, nn

from ...families.maskgit.backbone import MaskGit
from ...families.maskgit.head import MaskGitHead
from ...families.maskgit.sequence import Sequence
from ...sampling.backbone import Branch
from ...tokenizers.amused_vq import ImageTokenizer, ImageTokenizerConfig
from ...tokenizers.vqgan import GROUPS, Vqgan, VqganConfig


class ClassBase:
    """A MaskGIT base model as rounds and the evaluation see it; see ``batched.Batched``."""

    def __init__(self, base: MaskGit):
        self.base, self.config = base, base.config
        self.sequence, self.code_logits = base.sequence, base.code_logits

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    def features(self, sequence: Sequence) -> Tensor:
        """As the base's; blocks are called alike, so that one compilation serves all of them."""
        x = self.base.first_layer(self.base.embed(sequence, torch.arange(sequence.length, device=sequence.tokens.device).expand(len(sequence.tokens), -1)))
        for block in self.base.blocks:
            x = block(x)
        return self.base.last_layer(x)

    def branches(self, prompts: Tensor, unconditional: Tensor, guidance_scale: float) -> list[Branch]:
        found = [
            Branch(prompts, 1 + guidance_scale, prompt_visible=False),
            Branch(unconditional.expand(len(prompts), -1), -guidance_scale, prompt_visible=False),
        ]
        return [branch for branch in found if branch.weight != 0]

    def features_of(self, sequences: list[Sequence]) -> Tensor:
        return torch.cat([self.features(s) for s in sequences])

    def counted(self, sequences: list[Sequence]) -> Tensor:
        tokens = sum(len(s.tokens) for s in sequences)
        return torch.ones(tokens, sequences[0].length, 1, dtype=torch.bool, device=sequences[0].tokens.device)

    def predicted(self, head: MaskGitHead, features: Tensor, sequences: list[Sequence], new: Tensor, mask_ratio: float) -> Tensor:
        positions = torch.cat([s.positions[new] for s in sequences])
        embeddings = torch.cat([self.base.embed(s, s.positions[new]) for s in sequences]).detach()
        ratio = torch.full((len(positions),), mask_ratio, device=positions.device)
        return head(features, embeddings.to(features.dtype), positions, ratio, None)


def class_prompts(classes: Tensor, codebook_size: int) -> Tensor:
    """Class tokens of classes (N,): int64 (N, 1)."""
    return (codebook_size + 1 + classes)[:, None]


@torch.no_grad()
def initialise(model: MaskGit) -> None:
    """Each block starts as the identity, and logits are small, which suits Muon."""
    nn.init.normal_(model.tok_emb.weight, std=0.02)
    nn.init.normal_(model.pos_emb, std=0.02)
    for block in model.blocks:
        for layer in (block.attention.out_proj, block.feed_forward.down_proj):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


def vqgan_config(config: ImageTokenizerConfig, pixels: int) -> VqganConfig:
    """The config of the VQGAN that computes the same.

    Raises:
        ValueError: there is none.
    """
    first = config.block_out_channels[0]
    if config.norm_num_groups != GROUPS or any(channels % first for channels in config.block_out_channels):
        raise ValueError(
            f"No VQGAN has the channels {config.block_out_channels} and norms of {config.norm_num_groups} groups. "
            f"Expected multiples of the first, and {GROUPS} groups."
        )
    return VqganConfig(
        ch=first,
        ch_mult=tuple(channels // first for channels in config.block_out_channels),
        num_res_blocks=config.layers_per_block,
        resolution=pixels,
        attn_resolutions=(),
        z_channels=config.latent_channels,
        embed_dim=config.code_channels,
        n_embed=config.num_vq_embeddings,
    )


@torch.no_grad()
def as_vqgan(tokenizer: ImageTokenizer, pixels: int) -> Vqgan:
    """The VQGAN that computes the same, but for what the encoder sees outside of the picture.

    Raises:
        ValueError: there is none.
    """
    model = Vqgan(vqgan_config(tokenizer.config, pixels))
    levels = len(tokenizer.config.block_out_channels)
    weights = {}
    for name, value in tokenizer.state_dict().items():
        weights[_vqgan_name(name, levels)] = value.clone()
    # Pixels are -1..1 there, 0..1 here.
    weights["encoder.conv_in.bias"] += weights["encoder.conv_in.weight"].sum((1, 2, 3)) / 2
    weights["encoder.conv_in.weight"] /= 2
    weights["decoder.conv_out.weight"] *= 2
    weights["decoder.conv_out.bias"] = 2 * weights["decoder.conv_out.bias"] - 1
    for name, value in model.state_dict().items():
        if ".attn_1." in name:
            weights[name] = torch.ones_like(value) if name.endswith("norm.weight") else torch.zeros_like(value)
    model.load_state_dict(weights)
    return model.eval()


def _vqgan_name(name: str, levels: int) -> str:
    """The name that a tensor of the aMUSEd VQ model has in a VQGAN."""
    parts = name.split(".")
    if parts[1] == "down_blocks":
        middle = ["down", parts[2], *(["block", *parts[4:]] if parts[3] == "resnets" else ["downsample", *parts[5:]])]
    elif parts[1] == "up_blocks":
        level = str(levels - 1 - int(parts[2]))
        middle = ["up", level, *(["block", *parts[4:]] if parts[3] == "resnets" else ["upsample", *parts[5:]])]
    elif parts[1] == "mid_block":
        middle = ["mid", f"block_{int(parts[3]) + 1}", *parts[4:]]
    else:
        return name.replace("conv_norm_out", "norm_out")
    return ".".join([parts[0], *middle])

