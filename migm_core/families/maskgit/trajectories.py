"""Trajectories of a MaskGIT in the published form, for the training of its head (MIGM-Shortcut, arXiv 2602.23996).

Tar shards hold two records for each image, one a guidance branch, with the keys ``{batch:05d}_{index:03d}_{label}_cond`` and ``..._uncond``:

    feat.pth                float32 (N, L + 1, d)   the base's feature at each step, the class token's position last
    generation_order.pth    int64 (L + 1,)          the step that unmasked each position; -1 at the class
    teacher_vq_ids.pth      int64 (L + 1,)          the finished codes; last the label y, or K + 1 + C where it is dropped

Records of our own have run.json beside: what the run was of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...checkpoints.errors import CheckpointError
from ...checkpoints.recorded_run import check_run
from ...checkpoints.tar_shards import TarShard, TarWriter

if TYPE_CHECKING:
    from .config import MaskGitConfig

FEATURES, ORDER, CODES = "feat", "generation_order", "teacher_vq_ids"
BRANCHES = ("cond", "uncond")


@dataclass(frozen=True)
class TarTrajectory:
    """One image's run of N steps over L = P * P tokens. Tensors are read when they are asked for.

    Attributes:
        shard, key: where its records lie; the key without the branch.
        codebook_size, n_classes: K and C of the base, which tell its class tokens.
    """

    shard: TarShard
    key: str
    codebook_size: int
    n_classes: int

    @property
    def path(self) -> str:
        """For messages."""
        return f"{self.shard.path} ({self.key})"

    @cached_property
    def branches(self) -> tuple[str, ...]:
        """The branches that the shard holds."""
        return tuple(branch for branch in BRANCHES if f"{self.key}_{branch}" in self.shard.members)

    @cached_property
    def run(self) -> dict[str, Any]:
        """What the shard says of the run; empty for the published ones.

        Raises:
            CheckpointError: it says something, but not of which run it is.
        """
        said = self.shard.about(f"{self.key}_{self.branches[0]}")
        if said is not None:
            check_run(said, self.path)
        return said or {}

    @property
    def steps(self) -> int:
        return self._features_shape[0]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Tokens of the prompt, P, P and N."""
        side = math.isqrt(max(self._features_shape[1] - 1, 0))
        return 1, side, side, self.steps

    @property
    def codes(self) -> Tensor:
        """The finished codes, int64 (P, P)."""
        side = math.isqrt(len(self.unmasked_at))
        return self._codes[:-1].view(side, side)

    @property
    def prompts(self) -> tuple[Tensor, Tensor]:
        """The class token of the conditional branch and of the other one, int64 (1,) each: K + 1 + label, and K + 1 + C."""
        dropped = self.codebook_size + 1 + self.n_classes
        label = int(self._codes[-1])
        if label != dropped and not 0 <= label < self.n_classes:
            raise self._wrong(CODES, f"has the label {label}; expected 0 to {self.n_classes - 1}, or {dropped} for a dropped one")
        token = label if label == dropped else self.codebook_size + 1 + label
        return torch.tensor([token]), torch.tensor([dropped])

    @cached_property
    def unmasked_at(self) -> Tensor:
        """The step that unmasked each token in reading order, int64 (L,)."""
        order = self._tensor(ORDER)
        tokens, steps = len(order) - 1, self.steps
        if order.dim() != 1 or math.isqrt(max(tokens, 0)) ** 2 != tokens or tokens + 1 != self._features_shape[1]:
            shapes = f"{tuple(order.shape)} beside features of {self._features_shape}"
            raise self._wrong(ORDER, f"has the shape {shapes}; expected a square number of tokens and the class")
        if order[-1] != -1 or order[:-1].min() < 0 or order[:-1].max() >= steps:
            raise self._wrong(ORDER, f"holds values from {order.min()} to {order.max()}; expected steps 0 to {steps - 1}, and -1 at the class")
        return order[:-1].long()

    @cached_property
    def _codes(self) -> Tensor:
        codes, tokens = self._tensor(CODES), len(self.unmasked_at)
        if codes.shape != (tokens + 1,):
            raise self._wrong(CODES, f"has the shape {tuple(codes.shape)}, expected {(tokens + 1,)}")
        if codes[:-1].min() < 0 or codes[:-1].max() >= self.codebook_size:
            found = f"codes from {codes[:-1].min()} to {codes[:-1].max()}"
            raise self._wrong(CODES, f"holds {found}; expected 0 to {self.codebook_size - 1}, those of the base's codebook")
        return codes.long()

    @cached_property
    def _features_shape(self) -> tuple[int, ...]:
        shape = self.shard.shape(f"{self.key}_{self.branches[0]}", FEATURES)
        if len(shape) != 3 or shape[0] < 2:
            raise self._wrong(FEATURES, f"has the shape {shape}; expected (steps, tokens + 1, width) with at least two steps")
        return shape

    def features(self, branch: int, step: int) -> Tensor | None:
        """The feature of a branch (0 the conditional one, 1 the other) at a step, (L + 1, d); None where the shard has no such branch."""
        if BRANCHES[branch] not in self.branches:
            return None
        found = self.shard.row(f"{self.key}_{BRANCHES[branch]}", FEATURES, step)
        if found.shape != self._features_shape[1:]:
            raise CheckpointError(f"{self.path}: {FEATURES}.pth of the two branches have different shapes. Collect this image again.")
        return found

    def _tensor(self, name: str) -> Tensor:
        return self.shard.tensor(f"{self.key}_{self.branches[0]}", name)

    def _wrong(self, name: str, what: str) -> CheckpointError:
        return CheckpointError(f"{self.shard.path}: the member {self.key}_{self.branches[0]}.{name}.pth {what}. Collect this image again.")


def open_shards(paths: Iterable[str | Path], codebook_size: int, n_classes: int) -> list[TarTrajectory]:
    """The runs of some tar shards, by key; of each shard only the headers are read.

    Args:
        codebook_size, n_classes: of the base that made them.

    Raises:
        CheckpointError: a shard is damaged, or holds no trajectory.
    """
    found = []
    for path in paths:
        shard = TarShard(path)
        keys = {key.rpartition("_")[0] for key in shard.members if key.rpartition("_")[2] in BRANCHES}
        if not keys:
            raise CheckpointError(f"{path} holds no trajectories; expected records ..._cond and ..._uncond with {FEATURES}.pth, {ORDER}.pth and {CODES}.pth.")
        found += [TarTrajectory(shard, key, codebook_size, n_classes) for key in sorted(keys)]
    return found


class TarShards:
    """Writes runs as published, into the shards of a folder, and finds those that are there; see ``training.trajectories.Shards``.

    Use it in a with block.

    Args:
        config: the base's, with its codebook_size and n_classes.
        numbers: of the shards to write, see ``TarWriter``.
    """

    images_a_batch = 10  # in the published keys
    overhead = 2 * 8192  # bytes of a run beside its tensors: two records of four members

    def __init__(self, folder: str | Path, config: MaskGitConfig, numbers: Iterator[int] | None = None):
        self.config, self.writer = config, TarWriter(folder, numbers)
        self.found = {t.key.rpartition("_")[0]: t for t in self.open(folder, config)}

    @classmethod
    def open(cls, folder: str | Path, config: MaskGitConfig) -> list[TarTrajectory]:
        """All runs of a folder's shards."""
        return open_shards(sorted(Path(folder).glob("*.tar")), config.codebook_size, config.n_classes)

    def find(self, index: int) -> TarTrajectory | None:
        """The ``index``-th image's run, where there is one."""
        return self.found.get(self._place(index))

    def write(
        self, index: int, codes: Tensor, unmasked_at: Tensor, prompts: Sequence[Tensor], features: Sequence[Tensor | None], run: dict[str, Any]
    ) -> None:
        """Write a run: a record for each branch whose features are given.

        Args:
            codes: finished, (P, P).
            unmasked_at: (L,).
            prompts: the class token of both branches, (1,) each.
            features: (N, L + 1, d) of each branch, or None where it was not recorded.
        """
        labels = [int(prompts[0]) - self.config.codebook_size - 1, int(prompts[1])]
        order = torch.cat([unmasked_at.cpu().long(), torch.tensor([-1])])
        for branch, label, of_branch in zip(BRANCHES, labels, features):
            if of_branch is None:
                continue
            ids = torch.cat([codes.flatten().cpu().long(), torch.tensor([label])])
            tensors = {FEATURES: of_branch.float(), ORDER: order, CODES: ids}
            self.writer.add(f"{self._place(index)}_{labels[0]}_{branch}", tensors, run)

    def _place(self, index: int) -> str:
        batch, image = divmod(index, self.images_a_batch)
        return f"{batch:05d}_{image:03d}"

    def __enter__(self) -> TarShards:
        self.writer.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.writer.__exit__(*error)


def mask_ratios(unmasked_at: Tensor, steps: int) -> list[float]:
    """Share of the tokens that is still masked after each step but the last: what the head is told with that step's new tokens."""
    return [(unmasked_at > step).float().mean().item() for step in range(steps - 1)]
