"""What runs are recorded of: prompts, classes and tasks, from a list, mixed by share, and made ready for the model."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..arguments import read_text
from ..canvas import Canvas
from ..families import Family
from ..families.request import Encode, TaskRequest
from ..pipeline import Pipeline
from ..sampling.backbone import Branch
from ..settings import Settings

OF_REQUEST = ("prompt", "negative", "kind", "pictures", "mask")  # what a line of a list may say beside its task and that task's own settings
SEVERAL = "pictures"


@dataclass(frozen=True)
class Ready:
    """A run that is ready to be recorded.

    Attributes:
        settings: of the run, with its size.
        branches: every guidance branch, with those that the run leaves out: a head learns them all.
        run: the branches that the run computes; recorded: which of ``branches`` these are.
        canvas: what to sample, of one image; None for an empty one.
    """

    settings: Settings
    branches: list[Branch]
    run: list[Branch]
    recorded: list[int]
    canvas: Canvas | None = None

    def form(self, downscale_factor: int) -> "Form":
        rows, columns = self.settings.height // downscale_factor, self.settings.width // downscale_factor
        masked = rows * columns if self.canvas is None else int(self.canvas.masked.sum())
        return Form(self.settings.task, tuple(branch.prompt.shape[-1] for branch in self.branches), tuple(self.recorded), rows, columns, masked)


@dataclass(frozen=True)
class Form:
    """What the runs of a batch have in common.

    Attributes:
        prompts: lengths of all branches' prompts; recorded: indices of those that the run computes.
        rows, columns: of the canvas.
        masked: how many of its tokens are sampled.
    """

    task: str | None
    prompts: tuple[int, ...]
    recorded: tuple[int, ...]
    rows: int
    columns: int
    masked: int


def make_ready(pipeline: Pipeline, condition: Any, settings: Settings, encode: Encode) -> Ready:
    """A prompt, a class or a ``TaskRequest`` as the model reads it.

    Args:
        settings: of the run; where the task has pictures, these decide its size.
        encode: by the model's image tokenizer, or ``shapes_only``.

    Raises:
        ValueError: the model does not take it.
    """
    family, checkpoint = pipeline.checkpoint.family, pipeline.checkpoint
    if not isinstance(condition, TaskRequest):
        every, run = (family.branches(checkpoint, condition, "", scale, 1) for scale in (1.0, settings.guidance_scale))
        return Ready(settings, every, run, _among(run, every))
    inputs = family.task_inputs(checkpoint, condition, encode)
    if inputs.size is not None:
        settings = replace(settings, width=inputs.size[0], height=inputs.size[1])
        settings.check(checkpoint.image_tokenizer.config.downscale_factor)
    scales = settings.guidance_scale, settings.image_guidance_scale or 0
    every, run = (family.task_branches(checkpoint, condition, inputs, *each) for each in ((1.0, 1.0), scales))
    return Ready(settings, every, run, _among(run, every), inputs.canvas)


def _among(run: Sequence[Branch], every: Sequence[Branch]) -> list[int]:
    """Which branches a run computes: it keeps their order, and leaves out those without weight."""
    rest = iter(enumerate(every))
    return [next(index for index, branch in rest if torch.equal(branch.prompt, wanted.prompt)) for wanted in run]


def told(condition: Any) -> dict[str, Any]:
    """What a shard says of a request beside its prompt; nothing of a bare prompt or class.

    Pictures are told by their files' names: folders may move.
    """
    if not isinstance(condition, TaskRequest):
        return {}
    pictures, mask = [Path(picture).name for picture in condition.pictures], condition.mask and Path(condition.mask).name
    values = {"task": condition.task, "negative": condition.negative, "kind": condition.kind, "pictures": pictures, "mask": mask}
    return json.loads(json.dumps({**{name: value for name, value in values.items() if value}, **condition.options}))


def read_requests(path: Path, family: Family) -> list[TaskRequest]:
    """The requests of a .jsonl file, one a line: {"task": "edit", "prompt": "a red roof", "pictures": ["house.png"]}.

    Paths are relative to the file. A task's own settings, such as "grow", stand beside; "mask", "kind" and "negative" may.

    Raises:
        ValueError: a line is none, or asks for what its task does not take; it names the line.
    """
    return [_request(values, path, where, family) for where, values in _objects(path)]


def _objects(path: Path) -> Iterator[tuple[str, dict]]:
    lines = read_text(path, "a JSON object a line").split("\n")
    some = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        some, where = True, f"{path}, line {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: this is no JSON ({error}).") from None
        if not isinstance(values, dict):
            raise ValueError(f'{where}: expected an object such as {{"task": "edit", "prompt": "a red roof", "pictures": ["house.png"]}}.')
        yield where, values
    if not some:
        raise ValueError(f"{path} holds no requests. Expected one a line.")


def _request(values: dict, path: Path, where: str, family: Family) -> TaskRequest:
    values = dict(values)
    try:
        name = values.pop("task", None) or next(iter(family.tasks), None)
        task = family.task(name)
        options = {key: values.pop(key) for key in task.setting_names if key in values}
        if unknown := [key for key in values if key not in OF_REQUEST]:
            raise ValueError(f"{unknown[0]!r:.80} is unknown. Expected {', '.join(('task', *OF_REQUEST, *task.setting_names))}.")
        for key, value in values.items():
            if not (isinstance(value, str) or key == SEVERAL and isinstance(value, list) and all(isinstance(each, str) for each in value)):
                raise ValueError(f"{key} is {value!r:.80}, expected {'a list of paths' if key == SEVERAL else 'text'}.")
        given = values.pop(SEVERAL, [])
        files = [path.parent / each for each in ([given] if isinstance(given, str) else given)]
        mask = path.parent / values.pop("mask") if values.get("mask") else None
        for file in [*files, *([mask] if mask else [])]:
            if not file.is_file():
                raise ValueError(f"there is no file {file}.")
        values.pop("mask", None)
        request = TaskRequest(name, pictures=files, mask=mask, options=options, **values)
        task.check(request, len(files))
        if task.settings is not None:
            task.settings(**options)
        return request
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def mixed(conditions: Sequence[Any], shares: Mapping[str, float], count: int) -> list[Any]:
    """So many requests of some tasks by share, each task's in their order, and again from the first after the last.

    More of them begin with the same ones.

    Args:
        shares: of tasks by name, above 0; they are taken in proportion.

    Raises:
        ValueError: there is none of a task.
    """
    of_tasks = {task: [each for each in conditions if isinstance(each, TaskRequest) and each.task == task] for task in shares}
    if missing := [task for task, found in of_tasks.items() if not found]:
        raise ValueError(f"None of the requests is of the task {missing[0]}. Add some, or leave its share out.")
    total, taken, chosen = sum(shares.values()), dict.fromkeys(shares, 0), []
    for number in range(1, count + 1):
        task = max(shares, key=lambda name: shares[name] / total * number - taken[name])  # the one that lags most
        chosen.append(of_tasks[task][taken[task] % len(of_tasks[task])])
        taken[task] += 1
    return chosen


def settings_told(settings: Settings, sized: bool) -> dict[str, Any]:
    """The settings of a run as a shard gives them back; its size is that of its codes where pictures decide it.

    Args:
        sized: whether the settings say the size.
    """
    used = settings.used()
    names = [*(("width", "height") if sized else ()), "steps", "guidance_scale", *(("image_guidance_scale",) if not sized and settings.image_guidance_scale is not None else ())]
    return json.loads(json.dumps({name: used[name] for name in names} | asdict(settings.rule)))
