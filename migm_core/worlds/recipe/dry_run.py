"""What a step of each stage costs, counted without computing it, and what that makes a second on a large GPU."""

from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ...models.image_tokenizer import ImageTokenizer
from ...models.lumina import Lumina
from ...models.shortcut import ShortcutHead
from ...training.padded import PaddedBase, predict
from ...training.picture_tokenizer import TrainingOperations, picture_loss
from .sizes import Sizes

FLOPS = 0.35 * 800e12  # a second, in bfloat16, of an H100
BYTES = 0.8 * 3.35e12  # a second, from and to its memory
RENDER_BYTES = 330e6  # for a picture of 256x256, eager, counted on a CPU
LAYERS_BYTES = 420e6


class Traffic(TorchDispatchMode):
    """Counts the bytes that every operation but views reads and writes."""

    def __init__(self):
        super().__init__()
        self.bytes = self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns):
            return out
        self.operations += 1
        self.bytes += sum(t.numel() * t.itemsize for t in tree_leaves((args, out)) if isinstance(t, torch.Tensor))
        return out


def counted(run) -> SimpleNamespace:
    """FLOPs, bytes and operations of ``run()``."""
    with FlopCounterMode(display=False) as flops, Traffic() as traffic:
        run()
    return SimpleNamespace(flops=flops.get_total_flops(), bytes=traffic.bytes, operations=traffic.operations)


def dry_run(sizes: Sizes) -> str:
    """A report."""
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    meta, pixels = torch.device("meta"), sizes.pixels
    base = Lumina(sizes.base(), output_rows="all", dtype=torch.bfloat16, device=meta)
    tokenizer = ImageTokenizer(sizes.tokenizer, dtype=torch.bfloat16, device=meta, operations=TrainingOperations)
    head = ShortcutHead(sizes.head(), dtype=torch.bfloat16, device=meta)
    batch, config = 8, sizes.base()
    tokens = torch.zeros(batch, sizes.length, dtype=torch.int64, device=meta)
    padded, rotary = PaddedBase(base), base.rotary(sizes.length, meta)

    def of_base():
        return padded.code_logits(padded.features(tokens, rotary)[:, : sizes.side**2])

    def of_head():
        positions = torch.zeros(batch, sizes.prompt_length + 4, dtype=torch.int64, device=meta)
        known, visible = positions == 0, (tokens == 0)[:, None, None]
        features = torch.zeros(batch, sizes.length, config.d_model, dtype=torch.bfloat16, device=meta)
        ratio = torch.zeros(batch, dtype=torch.bfloat16, device=meta)
        return predict(head, features, features[:, : positions.shape[1]], positions, known, visible, ratio, head.rotary(sizes.length, meta))

    images = torch.zeros(batch, 3, pixels, pixels, dtype=torch.bfloat16, device=meta)
    with torch.no_grad():
        forward, shortcut = counted(of_base), counted(of_head)
        encode = counted(lambda: tokenizer.latents(images))
        decode = counted(lambda: tokenizer.decoder(torch.zeros(batch, sizes.tokenizer.latent_channels, sizes.side, sizes.side, dtype=torch.bfloat16, device=meta)))
    train = counted(lambda: of_base().float().sum().backward())
    both = counted(lambda: picture_loss(tokenizer.decode_latents(tokenizer.latents(images)), images, images[:, :1]).backward())

    area = (pixels / 256) ** 2
    render, layers = BYTES / (RENDER_BYTES * area), BYTES / (LAYERS_BYTES * area)
    encodes, base_rate = BYTES / (encode.bytes / batch * 1.3), FLOPS / (train.flops / batch)
    tokenizer_rate = 1 / (1 / layers + 1.3 * both.bytes / batch / BYTES)
    seconds_a_sample = 1 / base_rate + (1 / render + 1 / encodes) / sizes.uses
    pass_seconds = forward.flops / batch / FLOPS
    gigabytes = sizes.steps * 2 * sizes.runs * sizes.length * sizes.d_model * 2 / 1e9
    lines = [
        f"parameters: tokenizer {count(tokenizer):,}, base {count(base):,}, head {count(head):,}",
        f"weights in 16 bits: {2 * (count(tokenizer) + count(base) + count(head)) / 2**20:.1f} MiB",
        f"a sequence: {sizes.length} tokens, {sizes.prompt_length} of them prompt, {sizes.side**2} codes of {sizes.tokenizer.num_vq_embeddings}",
        f"base, forward: {forward.flops / batch / 1e9:.1f} GFLOP a sequence; training: {train.flops / batch / 1e9:.1f} GFLOP",
        f"head, forward: {shortcut.flops / batch / 1e9:.2f} GFLOP, {shortcut.flops / forward.flops:.1%} of the base's",
        f"tokenizer: encode {encode.flops / batch / 1e9:.1f} GFLOP and {encode.bytes / batch / 1e6:.0f} MB, decode {decode.flops / batch / 1e9:.1f} GFLOP and "
        f"{decode.bytes / batch / 1e6:.0f} MB; training {both.flops / batch / 1e9:.1f} GFLOP and {both.bytes / batch / 1e6:.0f} MB a picture",
        f"an H100 at {FLOPS / 1e12:.0f} TFLOP/s and {BYTES / 1e12:.1f} TB/s:",
        f"  render {render:,.0f} pictures a second, with masks {layers:,.0f}; encode {encodes:,.0f}",
        f"  tokenizer: {tokenizer_rate:,.0f} pictures a second, {tokenizer_rate / sizes.pictures_a_step:.1f} steps a second of {sizes.pictures_a_step}",
        f"  base: {1 / seconds_a_sample:,.0f} samples a second ({base_rate:,.0f} without rendering; each picture shown {sizes.uses} times); "
        f"{1 / seconds_a_sample / sizes.samples_a_step:.1f} steps a second of {sizes.samples_a_step}; 200 seconds show {200 / seconds_a_sample / 1e6:.2f} M",
        f"  head: a round of {sizes.runs} runs takes {2 * sizes.runs * sizes.steps * pass_seconds:.1f} s to make and {gigabytes:.1f} GB to keep",
        f"  evaluation: vanilla takes {2 * 512 * sizes.steps * pass_seconds:.1f} s for 512 prompts",
    ]
    return "\n".join(lines)
