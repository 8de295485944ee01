"""Collect trajectories of the base model for the head's training (MIGM-Shortcut, arXiv 2602.23996, section 4).

A trajectory is one vanilla run: the finished codes, the step that fixed each of them and, per step and guidance branch, the
feature of the whole sequence. Every trajectory is a safetensors shard of its own, so that collecting can stop and resume
anywhere and be spread over machines. Features of a large base take much room (8B at 1024x1024: 4.5 GB a trajectory); without
them a shard is a few kilobytes, and the training computes them anew.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from ..canvas import Canvas
from ..checkpoints.write import write_tensors
from ..models.lumina import Lumina
from ..pipeline import Pipeline
from ..sampling.methods.base import Step, at_cells
from ..sampling.sampler import sample
from ..sampling.sequence import Sequence, text_guidance
from ..threads import suited_threads
from .distributed import World

BRANCHES = ("conditional", "unconditional")


class RecordingRun:
    """Vanilla sampling that keeps the features of every step, and when each cell was fixed."""

    def __init__(self, model: Lumina, sequences: list[Sequence], dtype: torch.dtype):
        self.model, self.sequences, self.dtype = model, sequences, dtype
        self.features_of_steps: list[list[Tensor]] = [[] for _ in sequences]
        self.last: list[Tensor] = []  # whole features of each branch
        batch, cells = sequences[0].tokens.shape[0], len(sequences[0].cells)
        self.fixed_at = torch.full((batch, cells), -1, dtype=torch.int16, device=sequences[0].tokens.device)

    def features(self, step: Step) -> list[Tensor]:
        # A cell that is masked now is fixed by this step or a later one.
        self.fixed_at.scatter_(1, step.masked, step.index)
        if step.fixed.shape[1] or not self.last:  # on a small canvas some steps fix no cell, and change nothing
            self.last = [self.model.features(s.tokens, s.rotary) for s in self.sequences]
        for kept, features in zip(self.features_of_steps, self.last):
            kept.append(features.to("cpu", self.dtype))
        return [at_cells(features, s, step.masked) for features, s in zip(self.last, self.sequences)]


class Recording:
    """The method to pass to the sampler; ``run`` is the run it has started."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.run: RecordingRun | None = None

    def kinds(self, steps: int) -> list[str]:
        return ["recorded"] * steps  # none is skipped, as a full one might be

    def start(self, model: Lumina, sequences: list[Sequence], mask_ratios: list[float]) -> RecordingRun:
        self.run = RecordingRun(model, sequences, self.dtype)
        return self.run


@dataclass(frozen=True)
class Trajectory:
    """One shard, opened: its tensors are read when they are asked for.

    Attributes:
        codes: finished, int64 (H, W).
        fixed_at: step that fixed each cell in reading order, int16 (H * W,).
        prompts: token ids of the two branches.
        steps, guidance, temperature: of the run.
    """

    path: Path
    codes: Tensor
    fixed_at: Tensor
    prompts: tuple[Tensor, Tensor]
    steps: int
    guidance: float
    temperature: float

    @classmethod
    def open(cls, path: Path) -> "Trajectory":
        """Read all but the features.

        Raises:
            ValueError: the shard does not tell the settings of its run.
        """
        with safe_open(path, framework="pt") as file:
            prompts = tuple(file.get_tensor(f"prompt.{name}") for name in BRANCHES)
            run = file.metadata() or {}
            if lacking := [name for name in ("steps", "guidance", "temperature") if name not in run]:
                raise ValueError(f"{path} does not say with what {', '.join(lacking)} it was drawn. Remove it, and run `migm collect` again.")
            settings = int(run["steps"]), float(run["guidance"]), float(run["temperature"])
            return cls(path, file.get_tensor("codes"), file.get_tensor("fixed_at"), prompts, *settings)

    def features(self, branch: int, step: int) -> Tensor | None:
        """(T, d_model) of a branch as it entered the logits of a step; None where the shard was written without."""
        with safe_open(self.path, framework="pt") as file:
            name = f"features.{BRANCHES[branch]}"
            return file.get_slice(name)[step] if name in file.keys() else None


def canvas_at(trajectories: list[Trajectory], step: int) -> Canvas:
    """What a step saw of trajectories of one shape, an image each."""
    codes = torch.stack([t.codes for t in trajectories])
    fixed_at = torch.stack([t.fixed_at for t in trajectories])
    return Canvas(codes, (fixed_at >= step).view_as(codes))


def fixed_by(trajectories: list[Trajectory], step: int) -> Tensor:
    """Cells that a step fixed in trajectories of one shape, ascending, int64 (B, n)."""
    fixed = torch.stack([t.fixed_at for t in trajectories]) == step
    return fixed.nonzero()[:, 1].view(len(trajectories), int(fixed[0].sum()))


def features_of(trajectories: list[Trajectory], step: int, branch: int, sequence: Sequence, base: Lumina) -> Tensor:
    """Features of a branch at a step, (B, T, d_model): as recorded, or else computed from its sequence."""
    kept = [t.features(branch, step) for t in trajectories]
    if any(features is None for features in kept):
        return base.features(sequence.tokens, sequence.rotary)
    return torch.stack(kept).to(sequence.tokens.device, base.ln_f.weight.dtype)


def collect(
    pipeline: Pipeline,
    prompts: list[str],
    folder: str | Path,
    *,
    steps: int,
    guidance: float,
    temperature: float,
    seed: int = 0,
    batch: int = 1,
    size: tuple[int, int] | None = None,
    keep_features: bool = True,
    world: World = World(),
) -> None:
    """Write a shard for each prompt that has none yet; under ``torchrun`` each process takes its share.

    Args:
        batch: prompts of one length that are run together.
        size: (width, height) in pixels; None for the checkpoint's own.
        keep_features: store the features, in the base's dtype (float16 for a float32 base). Without guidance there are none of
            the unconditional branch; the training computes them where it learns that branch.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, device = pipeline.checkpoint, pipeline.device
    width, height = size or (checkpoint.settings["width"], checkpoint.settings["height"])
    factor = checkpoint.image_tokenizer.config.factor
    dtype = torch.float16 if pipeline.dtype == torch.float32 else pipeline.dtype
    unconditional = checkpoint.prompts.unconditional()
    # Prompts of one length share a batch; each keeps the seed of its place in the list.
    groups: dict[int, list[tuple[int, Tensor]]] = {}
    for index, text in enumerate(prompts):
        if index % world.size == world.rank and not shard_path(folder, index).exists():
            ids = checkpoint.prompts.prompt(text)
            groups.setdefault(len(ids), []).append((index, ids))
    batches = [group[i : i + batch] for group in groups.values() for i in range(0, len(group), batch)]
    for items in tqdm(batches, desc="collect", disable=None if world.first else True):
        branches = text_guidance(torch.stack([ids for _, ids in items]), unconditional, guidance)
        recording = Recording(dtype)
        generators = [torch.Generator(device).manual_seed(seed + index) for index, _ in items]
        canvas = Canvas.empty(len(items), height // factor, width // factor, device)
        with suited_threads(checkpoint.base.config, device):
            drawn = sample(checkpoint.base, branches, canvas, recording, steps=steps, temperature=temperature, generators=generators)
        run = recording.run
        features = [torch.stack(kept, dim=1) for kept in run.features_of_steps]
        for place, (index, ids) in enumerate(items):
            shard = {
                "codes": drawn.codes[place].cpu(),
                "fixed_at": run.fixed_at[place].cpu(),
                "prompt.conditional": ids,
                "prompt.unconditional": unconditional,
            }
            if keep_features:
                shard |= {f"features.{name}": f[place].clone() for name, f in zip(BRANCHES, features)}
            of_run = {"steps": len(run.features_of_steps[0]), "guidance": guidance, "temperature": temperature}
            write_tensors(shard_path(folder, index), shard, {name: str(value) for name, value in of_run.items()})


def shard_path(folder: Path, index: int) -> Path:
    return folder / f"trajectory-{index:06d}.safetensors"
