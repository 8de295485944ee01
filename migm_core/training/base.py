"""Train a base model on the synthetic domain: predict masked image codes from the prompt and the codes that are left."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..canvas import Canvas
from ..config import LuminaConfig
from ..models.lumina import Lumina
from ..prompts import PromptEncoder
from ..sampling.sequence import Branch, Sequence
from .distributed import World, sum_gradients
from .examples import Example, divergence, random_examples
from .muon import Muon
from .own_runs import OwnRuns
from .patches import PatchCodebook
from .pictures import ScenePictures
from .run import TrainingRun, alone_in_folder
from .vocabulary import TEXT_IDS, demo_layout, demo_text_tokenizer

# Images a step by number of objects; 0 stands for the unconditional prompt. Sequences of one group have one length, so
# nothing is padded; scenes of two leave most open, and scenes of three show most.
DEMO_BATCH = {0: 2, 1: 3, 2: 12, 3: 15}
# Of the unconditional images' loss, the only one that is learned from samples: their noise would drown what the others teach.
UNCONDITIONAL_WEIGHT = 0.1
LAYERS = 16
OWN_SHARE = 0.5  # of a step's images that come from the model's own runs, where they are asked for
OWN_RUNS = {1: 2, 2: 10, 3: 14}  # how many the model draws at a time, by number of objects and process
OWN_EVERY = 125  # steps from one such time to the next
ADAM_SHARE = 0.16  # of Muon's learning rate: for embeddings, output rows and norms


def demo_config(codebook_size: int, n_layers: int = LAYERS) -> LuminaConfig:
    """Deep and narrow: the shortcut head has about as many parameters as one of the layers."""
    return LuminaConfig(
        d_model=160,
        n_heads=5,
        n_kv_heads=5,
        n_layers=n_layers,
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


def learning_rate(step: int, steps: int) -> float:
    """Share of the peak: up over 100 steps, level, and down to zero over the last 80%."""
    return min((step + 1) / 100, 1.0, (steps - step) / (0.8 * steps))


def group_loss(model: Lumina, encoder: PromptEncoder, examples: list[Example]) -> tuple[Tensor, int]:
    """Summed KL divergence of the unknown cells' codes from what is possible, and the cells' number.

    Args:
        examples: their prompts have one length.
    """
    codes, unknown = (torch.stack(tensors) for tensors in zip(*((e.codes, e.unknown) for e in examples)))
    prompts = torch.stack([encoder.prompt(e.caption) if e.caption else encoder.unconditional() for e in examples])
    sequence = Sequence(Branch(prompts, 1.0), Canvas(codes, unknown), model)
    features = model.features(sequence.tokens, sequence.rotary)[:, sequence.cells]
    logits = model.code_logits(features[unknown.flatten(1)])
    return divergence(logits, examples), int(unknown.sum())


@alone_in_folder
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
    own_runs: bool = False,
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
        own_runs: take half of the images from the model's own runs, for a model that draws some scenes right already. A resumed
            run begins to collect them anew.
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
    optimizers = [Muon(matrices, lr=lr, world=world), torch.optim.AdamW(others, lr=ADAM_SHARE * lr, betas=(0.9, 0.95), weight_decay=0)]
    if saved := run.resume():
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
    if compile:
        for block in model.blocks:
            block.compile()

    pictures = ScenePictures(codebook)
    runs = OwnRuns(pictures, encoder)
    for step in run.steps_left():
        if own_runs and (step % OWN_EVERY == 0 or not runs.kept):
            rng = np.random.default_rng((seed, 6, step, world.rank))
            run.note({"step": step, **{f"own_right_{n}": round(runs.add(model, n, count, rng), 3) for n, count in OWN_RUNS.items()}})
        # Each step draws from its own seed, so that a resumed run sees what an uninterrupted one would have.
        rng = np.random.default_rng((seed, 1, step, world.rank))
        losses, total, cells = {}, 0.0, 0
        for objects, size in batch.items():
            if (count := world.share(size)) == 0:
                continue
            own = runs.draw(objects, int(OWN_SHARE * count), rng)
            loss, unknown = group_loss(model, encoder, own + random_examples(objects, count - len(own), pictures, rng))
            losses[f"loss_{objects}"] = loss.item() / unknown
            loss = loss * (1 if objects else UNCONDITIONAL_WEIGHT)
            loss.backward()
            total, cells = total + loss.item(), cells + unknown
        sum_gradients(list(model.parameters()), cells, world)
        for optimizer, peak in zip(optimizers, (lr, ADAM_SHARE * lr)):
            optimizer.param_groups[0]["lr"] = peak * learning_rate(step, steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        run.tick(
            {"loss": total / cells, **losses},
            lambda: {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]},
        )
    return model.eval()
