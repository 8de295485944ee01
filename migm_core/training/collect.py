"""Record runs of a base model, to train its head on: how much that takes, and the recording."""

import itertools
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..canvas import Canvas
from ..checkpoints.fingerprint import fingerprint, same_base
from ..families.request import Encode, TaskRequest, shapes_only
from ..pipeline import Pipeline
from ..settings import Settings
from ..writing import existing, folder_for
from .distributed import World
from .progress import Progress, duration, say, size
from .requests import Form, Ready, make_ready, settings_told, told
from .stop import Stop
from .trajectories import Recording, Shards, Trajectory, differences


@dataclass(frozen=True)
class Cost:
    """What collecting takes.

    Attributes:
        disk: bytes of all trajectories that are still to be recorded.
        memory: bytes of the host's memory that a batch of recorded features takes, for each process.
        passes: of the base model over one sequence each, in all.
        seconds: of the passes, over all processes.
    """

    trajectories: int
    disk: int
    memory: int
    passes: int
    seconds: float

    def __str__(self) -> str:
        what = f"{self.trajectories:,} trajector{'y' if self.trajectories == 1 else 'ies'} to record"
        room = f"{size(self.disk)} on the disk, {size(self.memory)} of memory for a batch of them"
        return f"{what}: {room}, {self.passes:,} passes of the base model, about {duration(self.seconds)}"


class Collection:
    """Runs to record, of which some may be there already. Nothing is written before ``record``.

    Args:
        conditions: a prompt, a class or a ``TaskRequest`` for each run; run i has ``settings.seed`` + i.
        settings: of the runs; their batch is how many of one form run together.
        of_tasks: the settings of each task's runs, by its name; where a task has pictures, these decide the size.
        keep_features: store the features, in the base's dtype (float16 for a float32 base). Without guidance there are none of
            the unconditional branch; the training computes them where it learns that branch.
        published: write the form that was published for the model's family, which holds features.

    Attributes:
        missing: how many are still to be recorded, by all processes.

    Raises:
        ValueError: the folder holds another run in the place of one of these, or the family has no published form.
        OSError: naming what is no folder, but lies in the place of one.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        conditions: Sequence[Any],
        folder: str | Path,
        settings: Settings,
        *,
        of_tasks: Mapping[str, Settings] = MappingProxyType({}),
        keep_features: bool = True,
        published: bool = False,
        world: World = World(),
    ):
        family, base = pipeline.checkpoint.family, pipeline.checkpoint.base
        if published and family.trajectories is None:
            raise ValueError(f"Trajectories of {family.title} have no published form. Leave --published out.")
        if published and not keep_features:
            raise ValueError("The published form holds features. Leave --published or --no-features out.")
        self.pipeline, self.folder, self.settings, self.world = pipeline, Path(folder), settings, world
        self.disk = existing(self.folder)
        form = family.trajectories if published else Shards
        self.shards = form(folder, base.config, itertools.count(world.rank, world.size))
        self.dtype = None if not keep_features else torch.float32 if published else torch.float16 if base.dtype == torch.float32 else base.dtype
        self.base = fingerprint(base)
        self.defaults = _as_told(asdict(type(settings.rule)()))  # what a shard means that was written before a setting was there
        self.conditions, self.of_tasks = conditions, of_tasks
        # Runs of one form share a batch; each keeps the seed of its place in the list.
        factor = pipeline.checkpoint.image_tokenizer.config.downscale_factor
        self.groups: dict[Form, list[int]] = {}
        self.missing = 0
        for index in range(len(conditions)):
            if (there := self.shards.find(index)) is not None:
                self._check(index, there)
                continue
            self.missing += 1
            if (self.missing - 1) % world.size == world.rank:
                self.groups.setdefault(self._ready(index, shapes_only(factor)).form(factor), []).append(index)
        world.wait()  # until all have seen what is there
        self.batches = [group[i : i + self._together(group)] for group in self.groups.values() for i in range(0, len(group), self._together(group))]

    def about(self, index: int) -> dict[str, Any]:
        """What a shard says of its run."""
        condition = self.conditions[index]
        prompt, request = (condition.prompt, told(condition)) if isinstance(condition, TaskRequest) else (condition, {})
        sized = not request.get("pictures")
        return {
            "base": self.base,
            "prompt": str(prompt),
            "seed": self.settings.seed + index,
            "settings": settings_told(self._settings(condition), sized),
            "request": request,
        }

    def _settings(self, condition: Any) -> Settings:
        return self.of_tasks[condition.task] if isinstance(condition, TaskRequest) else self.settings

    def _together(self, group: list[int]) -> int:
        """How many runs of one form are recorded at once."""
        return 1 if self._settings(self.conditions[group[0]]).rule.one_by_one else min(len(group), self.settings.batch)

    def _ready(self, index: int, encode: Encode) -> Ready:
        condition = self.conditions[index]
        return make_ready(self.pipeline, condition, self._settings(condition), encode)

    def _encode(self, pixels: Tensor) -> Tensor:
        return self.pipeline.encode(pixels).codes

    def _check(self, index: int, there: Trajectory) -> None:
        found, expected, other = there.run, self.about(index), None
        settings = {**self.defaults, **found.get("settings", {})}
        if not found:
            other = "a run that says nothing of itself"
        elif not same_base(found["base"], expected["base"]):
            other = "another base model"
        elif settings != expected["settings"]:
            other = differences(settings, expected["settings"])
        elif found.get("request", {}) != expected["request"]:
            other = f"another request: {differences(found.get('request', {}), expected['request'])}"
        elif (found["prompt"], found["seed"]) != (expected["prompt"], expected["seed"]):
            other = f"the prompt {found['prompt']!r} and seed {found['seed']}, not {expected['prompt']!r} and {expected['seed']}"
        if other:
            raise ValueError(f"{there.path} is of {other}. Collect into another folder, or remove it.")

    @torch.inference_mode()
    def cost(self) -> Cost:
        """What recording the missing runs takes, from one pass of the base over one batch."""
        if not self.batches:
            return Cost(self.missing, 0, 0, 0, 0.0)
        config, mine = self.pipeline.checkpoint.base.config, sum(map(len, self.groups.values()))
        seconds, computed = self._pass_seconds(self.batches[0])
        disk = memory = passes = positions = 0
        for form, indices in self.groups.items():
            settings = self._settings(self.conditions[indices[0]])
            lengths = [config.sequence_length(length, form.rows, form.columns) for length in form.prompts]
            recorded = [lengths[branch] for branch in form.recorded]
            keep = settings.rule.keep(form.masked, form.rows * form.columns, settings.steps)
            working = sum(before > after for before, after in zip([form.masked, *keep], keep)) or 1
            each = settings.steps * sum(recorded) * config.width * self.dtype.itemsize if self.dtype is not None else 0
            # Codes, steps and prompts beside the features.
            disk += len(indices) * (each + 16 * form.rows * form.columns * len(form.recorded) + 8 * sum(lengths) + self.shards.overhead)
            memory = max(memory, (self._together(indices) + 1) * each)  # of a batch, and of one run put together to be written
            passes += len(indices) * working * len(recorded)
            positions += len(indices) * working * sum(recorded)
        share = self.missing / mine  # of all processes' runs to this one's
        return Cost(self.missing, round(disk * share), memory, round(passes * share), seconds / computed * positions * share / self.world.size)

    def _pass_seconds(self, indices: list[int]) -> tuple[float, int]:
        """Of the first branch of a batch, the second time; and how many positions it has."""
        base, device = self.pipeline.checkpoint.base, self.pipeline.device
        ready = [self._ready(index, self._encode) for index in indices]
        branch = replace(ready[0].run[0], prompt=torch.stack([each.run[0].prompt for each in ready]))
        sequence = base.sequence(branch, self._canvas(ready).to(device))
        for _ in range(2):
            began = time.perf_counter()
            base.features(sequence)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return time.perf_counter() - began, len(indices) * sequence.length

    def _canvas(self, ready: Sequence[Ready]) -> Canvas:
        """What a batch of one form samples."""
        factor, settings = self.pipeline.checkpoint.image_tokenizer.config.downscale_factor, ready[0].settings
        if ready[0].canvas is None:
            return Canvas.empty(len(ready), settings.height // factor, settings.width // factor)
        return Canvas.stacked([each.canvas for each in ready])

    def check_disk(self, cost: Cost) -> None:
        """Raise a ValueError where the disk has less room than that."""
        free = shutil.disk_usage(self.disk).free
        if cost.disk > free:
            raise ValueError(
                f"{self.folder} would take {size(cost.disk)}, but the disk has {size(free)} left. Choose fewer prompts or steps, or --no-features: "
                "a few kB a trajectory, and train-head computes features again."
            )

    def record(self) -> None:
        """Record this process's share of the missing runs. Ctrl-C and SIGTERM end it after the batch that is being recorded.

        Raises:
            KeyboardInterrupt, SystemExit: it was asked to stop.
            OSError: naming the folder that cannot be made, or the file that cannot be written.
        """
        done = 0
        with folder_for(self.folder), self.shards, Stop() as stop, Progress("collect", sum(map(len, self.batches)), "run", quiet=not self.world.first) as bar:
            for indices in self.batches:
                self._record(indices)
                done += len(indices)
                bar.update(done)
                if stop.asked_by is not None:
                    break
        if stop.asked_by is not None:
            say(f"Stopped after {done:,} of {sum(map(len, self.batches)):,} runs: the same command goes on from there.")
            stop.obey()
        if self.world.first:
            count = f"{len(self.conditions):,} trajectories"
            say(f"{self.folder} holds {count}." if self.missing else f"{self.folder} is complete: all {count} are there.")

    def _record(self, indices: list[int]) -> None:
        recording, seeds = Recording(self.dtype), [self.settings.seed + index for index in indices]
        ready = [self._ready(index, self._encode) for index in indices]
        settings = replace(ready[0].settings, batch=len(indices))
        sampled = self.pipeline.sample([each.run for each in ready], settings, self._canvas(ready), method=recording, seeds=seeds)
        run = recording.run
        for image, index in enumerate(indices):
            features: list[Tensor | None] = [None] * len(ready[image].branches)
            for branch, of_branch in zip(ready[image].recorded, run.features_of_steps):
                features[branch] = torch.stack([of_step[image] for of_step in of_branch]) if of_branch else None
            prompts = [branch.prompt for branch in ready[image].branches]
            self.shards.write(index, sampled.canvas.codes[image], run.unmasked_at[image], prompts, features, self.about(index))


def _as_told(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as a shard gives them back."""
    return json.loads(json.dumps(values))
