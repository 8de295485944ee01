"""What a step of each stage costs, counted without computing it, and what that makes a second on a large GPU."""

from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ...families.lumina_dimoo.backbone import Lumina
from ...families.lumina_dimoo.head import ShortcutHead
from ...families.maskgit.backbone import MaskGit
from ...families.maskgit.head import MaskGitHead
from ...tokenizers.amused_vq import ImageTokenizer
from ...training.picture_tokenizer import TrainingOperations, picture_loss
from .maskgit import as_vqgan
from .padded import PaddedBase, predict
from .pieces import SHARES, TOTAL
from .sizes import Sizes

FLOPS = 0.30 * 800e12  # a second, in bfloat16, of an H100
CONVOLUTIONS = 0.25 * 800e12
BYTES = 0.8 * 3.35e12  # a second, from and to its memory
RENDER_BYTES = 330e6  # for a picture of 256x256, eager, counted on a CPU
LAYERS_BYTES = 420e6
CORE_FLOPS = 45e9  # a second, in float32, of a processor core with AVX2, in convolutions and matrix products with all that lies between them
CORE_LAYERS = 40  # pictures of 256x256 that it renders a second, with masks

FUSED = {"aten::silu", "aten::silu_", "aten::silu_backward", "aten::add.Tensor", "aten::_to_copy", "aten::clone"}  # into their neighbours, by torch.compile


class Traffic(TorchDispatchMode):
    """Counts the bytes that every operation but views reads and writes, and those that stay where operations are fused."""

    def __init__(self):
        super().__init__()
        self.bytes = self.fused = self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns):
            return out
        self.operations += 1
        moved = sum(t.numel() * t.itemsize for t in tree_leaves((args, out)) if isinstance(t, torch.Tensor))
        self.bytes += moved
        self.fused += moved * (func.name() not in FUSED)
        return out


def counted(run) -> SimpleNamespace:
    """FLOPs, bytes and operations of ``run()``."""
    with FlopCounterMode(display=False) as flops, Traffic() as traffic:
        run()
    return SimpleNamespace(flops=flops.get_total_flops(), bytes=traffic.bytes, fused=traffic.fused, operations=traffic.operations)


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
        return padded.code_logits(padded.hidden(tokens, rotary)[:, : sizes.side**2])

    def of_head():
        positions = torch.zeros(batch, sizes.prompt_length + 4, dtype=torch.int64, device=meta)
        known, visible = positions == 0, (tokens == 0)[:, None, None]
        features = torch.zeros(batch, sizes.length, config.d_model, dtype=torch.bfloat16, device=meta)
        ratio = torch.zeros(batch, dtype=torch.bfloat16, device=meta)
        return predict(head, features, features[:, : positions.shape[1]], positions, known, visible, ratio, head.tables(sizes.length, meta))

    images = torch.zeros(batch, 3, pixels, pixels, dtype=torch.bfloat16, device=meta)
    with torch.no_grad():
        forward, shortcut = counted(of_base), counted(of_head)
        encode = counted(lambda: tokenizer.latents(images))
        decode = counted(lambda: tokenizer.decoder(torch.zeros(batch, sizes.tokenizer.latent_channels, sizes.side, sizes.side, dtype=torch.bfloat16, device=meta)))
    train = counted(lambda: of_base().float().sum().backward())
    both = counted(lambda: picture_loss(tokenizer.decode_latents(tokenizer.latents(images)), images, images[:, :1]).backward())

    area = (pixels / 256) ** 2
    render, layers = BYTES / (RENDER_BYTES * area), BYTES / (LAYERS_BYTES * area)
    encodes = 1 / (encode.flops / batch / CONVOLUTIONS + encode.fused / batch / BYTES)
    base_rate = FLOPS / (train.flops / batch)
    tokenizer_rate = 1 / (1 / layers + both.flops / batch / CONVOLUTIONS + both.fused / batch / BYTES)
    a_picture = (1 / layers + 1 / encodes) / sizes.uses
    a_sample = (1 + 1 / 3 / sizes.on_policy_every) / base_rate + a_picture
    pass_seconds = forward.flops / batch / FLOPS
    gigabytes = sizes.steps * 2 * sizes.runs * sizes.length * sizes.d_model * 2 / 1e9
    large = 2 * count(tokenizer) + count(base) + 2 * count(head)
    core_tokenizer = 1 / (1 / (CORE_LAYERS / area) + both.flops / batch / CORE_FLOPS)
    core_base = 1 / ((1 / (CORE_LAYERS / area) + encode.flops / batch / CORE_FLOPS) / sizes.uses + (train.flops + forward.flops / sizes.on_policy_every) / batch / CORE_FLOPS)
    seconds = SHARES
    shown = seconds["base"] / a_sample
    lines = [
        f"parameters: tokenizer {count(tokenizer):,}, base {count(base):,}, head {count(head):,}",
        f"bundled: {large / 2**20:.1f} MiB with the base in 8 bits",
        f"a sequence: {sizes.length} tokens, {sizes.prompt_length} of them prompt, {sizes.side**2} codes of {sizes.tokenizer.num_vq_embeddings}",
        f"base, forward: {forward.flops / batch / 1e9:.1f} GFLOP a sequence; training: {train.flops / batch / 1e9:.1f} GFLOP",
        f"head, forward: {shortcut.flops / batch / 1e9:.2f} GFLOP, {shortcut.flops / forward.flops:.1%} of the base's",
        f"tokenizer: encode {encode.flops / batch / 1e9:.1f} GFLOP and {encode.fused / batch / 1e6:.0f} MB, decode {decode.flops / batch / 1e9:.1f} GFLOP and "
        f"{decode.fused / batch / 1e6:.0f} MB; training {both.flops / batch / 1e9:.1f} GFLOP and {both.fused / batch / 1e6:.0f} MB a picture, "
        f"{both.bytes / batch / 1e6:.0f} MB where nothing is fused",
        *_of_classes(sizes, batch),
        f"an H100 at {FLOPS / 1e12:.0f} TFLOP/s, {CONVOLUTIONS / 1e12:.0f} in convolutions, and {BYTES / 1e12:.1f} TB/s:",
        f"  render {render:,.0f} pictures a second, with masks {layers:,.0f}; encode {encodes:,.0f}",
        f"  tokenizer: {tokenizer_rate:,.0f} pictures a second, {tokenizer_rate / sizes.pictures_a_step:.1f} steps a second of {sizes.pictures_a_step}; "
        f"{seconds['tokenizer']} seconds show {seconds['tokenizer'] * tokenizer_rate / 1e3:,.0f} thousand",
        f"  base: {1 / a_sample:,.0f} samples a second ({base_rate:,.0f} without rendering and on-policy states; each picture shown {sizes.uses} times); "
        f"{1 / a_sample / sizes.samples_a_step:.1f} steps a second of {sizes.samples_a_step}; {seconds['base']} seconds show {shown / 1e6:.2f} M "
        f"of {shown / sizes.uses / 1e3:,.0f} thousand pictures",
        f"  head: a round of {sizes.runs} runs takes {2 * sizes.runs * sizes.steps * pass_seconds:.1f} s to make and {gigabytes:.1f} GB to keep",
        f"  evaluation: vanilla takes {2 * 512 * sizes.steps * pass_seconds:.1f} s for 512 prompts",
        f"a processor core at {CORE_FLOPS / 1e9:.0f} GFLOP/s: tokenizer {core_tokenizer:.1f} pictures a second, base {core_base:.1f} samples a second; "
        f"vanilla takes {2 * sizes.steps * forward.flops / batch / CORE_FLOPS:.1f} s a picture",
        f"seconds of each stage, of {TOTAL} (classes and class-head beside head): "
        + ", ".join(f"{name} {value}" for name, value in SHARES.items()),
    ]
    return "\n".join(lines)


def _of_classes(sizes: Sizes, batch: int) -> list[str]:
    """Lines on the model of classes, where there is one."""
    if sizes.classes is None:
        return []
    model = MaskGit(sizes.class_base(), dtype=torch.bfloat16, device="meta")
    ids = torch.zeros(batch, sizes.side**2 + 1, dtype=torch.int64, device="meta")
    train = counted(lambda: model.logits(model.features_of(ids)).float().sum().backward())
    parts = (model, as_vqgan(ImageTokenizer(sizes.tokenizer), sizes.pixels), MaskGitHead(sizes.class_head()))
    base, *others = (sum(p.numel() for p in part.parameters()) for part in parts)
    return [
        f"model of classes: base {base:,} parameters, with its VQGAN and head {base + sum(others):,}, {2 * (base + sum(others)) / 2**20:.1f} MiB in 16 bits; "
        f"training: {train.flops / batch / 1e9:.2f} GFLOP a sequence, at most {FLOPS / (train.flops / batch):,.0f} samples a second on an H100: steps of "
        f"{sizes.classes.samples_a_step} are bound by their launches, some 60 a second",
    ]
