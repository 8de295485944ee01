"""Train a base model on the synthetic domain: predict masked image codes from the prompt and the codes that are left."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...canvas import Canvas
from ...families.lumina_dimoo.backbone import Lumina
from ...families.lumina_dimoo.config import LuminaConfig
from ...families.lumina_dimoo.initial import initialise
from ...families.lumina_dimoo.prompts import PromptEncoder
from ...sampling.backbone import Branch
from ...training.distributed import World
from ...training.learner import Learner, falling
from ...training.muon import Muon
from ...training.run import Run
from .examples import Example, divergence, random_examples
from .on_policy import OnPolicyStates
from .patches import PatchCodebook
from .pictures import ScenePictures
from .vocabulary import TEXT_IDS, demo_layout, demo_text_tokenizer

# Images a step by number of objects; 0 stands for the unconditional prompt. Sequences of one group have one length, so
# nothing is padded; scenes of two leave most open, and scenes of three show most.
DEMO_BATCH = {0: 2, 1: 3, 2: 12, 3: 15}
# Of the unconditional images' loss, the only one that is learned from samples: their noise would drown what the others teach.
UNCONDITIONAL_WEIGHT = 0.1
LAYERS = 16
ON_POLICY_SHARE = 0.5  # of a step's images that come from the model's own runs, where they are asked for
ON_POLICY_RUNS = {1: 2, 2: 10, 3: 14}  # how many the model makes at a time, by number of objects and process
ON_POLICY_EVERY = 125  # steps from one such time to the next
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


def examples_loss(model: Lumina, encoder: PromptEncoder, groups: dict[int, list[Example]]) -> tuple[Tensor, dict[int, Tensor]]:
    """KL divergence of the masked tokens' codes from what is possible, in nats: the weighted sum that is minimised, and the sum of each group.

    Args:
        groups: by number of objects, 0 without captions; the prompts of each have one length.
    """
    sums = {}
    for objects, examples in groups.items():
        codes, masked = (torch.stack(tensors) for tensors in zip(*((e.codes, e.masked) for e in examples)))
        prompts = torch.stack([encoder.prompt(e.caption) if e.caption else encoder.unconditional() for e in examples])
        sequence = model.sequence(Branch(prompts, 1.0), Canvas(codes, masked))
        features = model.features(sequence)[:, sequence.positions]
        sums[objects] = divergence(model.code_logits(features[masked.flatten(1)]), examples)
    return sum(nats * (1 if objects else UNCONDITIONAL_WEIGHT) for objects, nats in sums.items()), sums


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
    on_policy: bool = False,
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
        on_policy: take half of the images from the model's own runs, for a model that generates some scenes right already. A resumed
            run begins to collect them anew.
        compile: fuse the blocks with torch.compile; a third faster, after a minute of compiling.

    Raises:
        ValueError: a process would have no image to learn from.
    """
    if max(batch.values()) < world.size:
        raise ValueError(f"{world.size} processes would share at most {max(batch.values())} images of a kind a step, and one would have none. Start fewer.")
    config = start.config if start is not None else config or demo_config(len(codebook.centres))
    encoder = PromptEncoder.of(demo_text_tokenizer(), config.tokens)
    torch.manual_seed(seed)
    model = Lumina(config, output_rows="all")
    initialise(model)
    if start is not None:
        model.load_state_dict(start.state_dict())
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() == 1] + [model.wte.weight, model.ff_out.weight]
    optimizers = [Muon(matrices, lr=lr, world=world), torch.optim.AdamW(others, lr=ADAM_SHARE * lr, betas=(0.9, 0.95), weight_decay=0)]
    pictures = ScenePictures(codebook)
    states = OnPolicyStates(pictures, encoder)
    with Run(folder, steps=steps, world=world) as run:
        learner = Learner(model, examples_loss, optimizers, lambda step: falling(step / max(steps, 1), step, level=0.2), world=world)
        if compile:
            for block in model.blocks:
                block.compile()
        for step in run.steps(learner=learner):
            if on_policy and (step % ON_POLICY_EVERY == 0 or not states.kept):
                rng = np.random.default_rng((seed, 6, step, world.rank))
                run.note(**{f"on_policy_accuracy_{n}": states.add(model, n, count, rng) for n, count in ON_POLICY_RUNS.items()})
            # Each step samples from its own seed, so that a resumed run sees what an uninterrupted one would have.
            rng = np.random.default_rng((seed, 1, step, world.rank))
            groups: dict[int, list[Example]] = {}
            for objects, size in batch.items():
                if count := world.share(size):
                    own = states.sample(objects, int(ON_POLICY_SHARE * count), rng)
                    groups[objects] = own + random_examples(objects, count - len(own), pictures, rng)
            masked = {objects: sum(int(e.masked.sum()) for e in examples) for objects, examples in groups.items()}
            everywhere = world.total(torch.tensor(float(sum(masked.values())))).item()
            total, sums = learner(encoder, groups)
            learner.update(total * world.size / everywhere)  # the processes' mean is the sum over all their tokens, over their number
            run.count(loss=(total, sum(masked.values())), **{f"loss_{objects}": (nats, masked[objects]) for objects, nats in sums.items()})
    return model.eval()
