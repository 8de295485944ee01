"""Train a base model on the synthetic domain: predict masked image codes from the prompt and the codes that are left."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..canvas import Canvas
from ..config import LuminaConfig
from ..models.lumina import Lumina
from ..prompts import PromptEncoder
from ..sampling.sequence import Branch, Sequence
from .distributed import World, sum_gradients
from .muon import Muon
from .patches import PatchCodebook
from .run import TrainingRun
from .scenes import place, random_scene, render
from .vocabulary import TEXT_IDS, demo_layout, demo_text_tokenizer

# Images a step by number of objects; 0 stands for the unconditional prompt. Sequences of one group have one length, so
# nothing is padded; scenes of three are both the hardest and the most instructive.
DEMO_BATCH = {0: 2, 1: 6, 2: 11, 3: 13}
ADAM_SHARE = 0.16  # of Muon's learning rate: for embeddings, output rows and norms


def demo_config(codebook_size: int) -> LuminaConfig:
    """Deep and narrow: twelve layers cost twelve times the shortcut head, which has about one layer's parameters."""
    return LuminaConfig(
        d_model=160,
        n_heads=5,
        n_kv_heads=5,
        n_layers=12,
        mlp_hidden_size=480,
        rope_theta=1000.0,  # a hundred positions: faster rotations tell them apart
        vocab_size=TEXT_IDS + codebook_size,
        max_sequence_length=128,
        tokens=demo_layout(codebook_size),
    )


def initialise(model: Lumina) -> None:
    """Each block starts as the identity and the logits at zero, which suits Muon."""
    for block in model.blocks:
        nn.init.zeros_(block.attn_out.weight)
        nn.init.zeros_(block.ff_out.weight)
    nn.init.zeros_(model.ff_out.weight)


def learning_rate(step: int, steps: int) -> float:
    """Share of the peak: up over 100 steps, level, and down to zero over the last 40%."""
    return min((step + 1) / 100, 1.0, (steps - step) / (0.4 * steps))


def random_masks(codes: Tensor, rng: np.random.Generator) -> Tensor:
    """Masked cells of images (B, H, W), bool alike, at the rate of a random time of the cosine schedule (MaskGIT, section 3.1).

    Half of the masks are uniform, the others such as a sampler leaves that fixes first what it is surest of: background rather
    than objects, and one region before another. Uniform masks alone hardly ever show a model the choice of the last free place.
    """
    batch, height, width = codes.shape
    cells = height * width
    late = rng.random((batch, height, width))  # the later, the longer masked
    regions = rng.random((batch, 2, 2)).repeat(-(-height // 2), 1).repeat(-(-width // 2), 2)[:, :height, :width]
    objects = (codes != codes.flatten(1).mode(1).values[:, None, None]).numpy()
    late += rng.integers(2, size=(batch, 1, 1)) * (regions + rng.random((batch, 1, 1)) * objects)
    masked = np.ceil(np.cos(rng.random(batch) * math.pi / 2) * cells).clip(1, cells)
    rank = late.reshape(batch, cells).argsort(1).argsort(1)
    return torch.from_numpy(rank >= cells - masked[:, None]).view(codes.shape)


def group_loss(model: Lumina, encoder: PromptEncoder, codes: Tensor, captions: list[str], rng: np.random.Generator) -> tuple[Tensor, int]:
    """Summed cross-entropy of the masked cells and their number, for images whose prompts have one length."""
    unknown = random_masks(codes, rng)
    prompts = torch.stack([encoder.prompt(text) if text else encoder.unconditional() for text in captions])
    sequence = Sequence(Branch(prompts, 1.0), Canvas(codes, unknown), model)
    features = model.features(sequence.tokens, sequence.rotary)[:, sequence.cells]
    logits = model.code_logits(features[unknown.flatten(1)])
    return F.cross_entropy(logits, codes[unknown], reduction="sum"), int(unknown.sum())


def train_base(
    folder: str | Path,
    codebook: PatchCodebook,
    *,
    steps: int = 3000,
    lr: float = 0.01,
    seed: int = 0,
    batch: dict[int, int] = DEMO_BATCH,
    config: LuminaConfig | None = None,
    start: Lumina | None = None,
    compile: bool = False,
    world: World = World(),
) -> Lumina:
    """Train on random scenes, or resume ``folder``'s checkpoint; returns the trained model, with all output rows.

    Args:
        codebook: gives the scenes' codes.
        lr: peak of Muon's; AdamW's is ADAM_SHARE of it. The loss of a model that knows the domain levels off high above its floor
            at 0.012; at 0.005 it goes on falling.
        batch: images a step by number of objects (0: unconditional), over all processes.
        start: weights to begin with, with all output rows, instead of random ones.
        compile: fuse the blocks with torch.compile; a third faster, after a minute of compiling.
    """
    config = start.config if start is not None else config or demo_config(len(codebook.centres))
    encoder = PromptEncoder.of(demo_text_tokenizer().backend_tokenizer, config.tokens)
    run = TrainingRun(folder, steps, quiet=not world.first)
    torch.manual_seed(seed)
    model = Lumina(config, output_rows="all")
    initialise(model)
    if start is not None:
        model.load_state_dict(start.state_dict())
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() == 1] + [model.wte.weight, model.ff_out.weight]
    optimizers = [Muon(matrices, lr=lr), torch.optim.AdamW(others, lr=ADAM_SHARE * lr, betas=(0.9, 0.95), weight_decay=0)]
    if saved := run.resume():
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
    if compile:
        for block in model.blocks:
            block.compile()

    for step in run.steps_left():
        # Each step draws from its own seed, so that a resumed run sees what an uninterrupted one would have.
        rng = np.random.default_rng((seed, 1, step, world.rank))
        losses, total, count = {}, 0.0, 0
        for objects, size in batch.items():
            if world.share(size) == 0:
                continue
            scenes = [random_scene(rng, objects or int(rng.integers(1, 4)), "train") for _ in range(world.share(size))]
            images = np.stack([render(scene, place(rng, scene)) for scene in scenes])
            codes = codebook.codes(torch.from_numpy(images).permute(0, 3, 1, 2))
            loss, cells = group_loss(model, encoder, codes, [scene.caption if objects else "" for scene in scenes], rng)
            loss.backward()
            losses[f"loss_{objects}"] = loss.item() / cells
            total, count = total + loss.item(), count + cells
        sum_gradients(list(model.parameters()), count, world)
        for optimizer, peak in zip(optimizers, (lr, ADAM_SHARE * lr)):
            optimizer.param_groups[0]["lr"] = peak * learning_rate(step, steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        run.tick(
            {"loss": total / count, **losses},
            lambda: {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]},
        )
    return model.eval()
