"""What tasks take from a command: pictures, a mask, a kind and their own settings. Their names and meanings come from the families.

Imports torch: commands import this module when they run.
"""

import argparse
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..families import FAMILIES, Family
from ..families.request import TaskRequest, shapes_only
from ..pipeline import Pipeline
from ..sampling.setting import settings_of
from .options import add_setting, option, prompts

TASKS = {name: task for family in FAMILIES for name, task in family.tasks.items()}


def add_task(parser: argparse.ArgumentParser, name: str | None = None) -> None:
    """Add the options of a task, or of all of them and one that chooses among them."""
    tasks = list(TASKS.values()) if name is None else [TASKS[name]]
    if name is None:
        said = "; ".join(f"{task.name}: {task.about}" for task in tasks)
        parser.add_argument("--task", choices=list(TASKS), help=f"{said} (default: what a bare prompt or class asks for)".replace("%", "%%"))
    most = max(len(task.pictures) for task in tasks)
    named = tasks[0].pictures[0] if name is not None else "a picture that the task reads"
    parser.add_argument("--image", metavar="PIC", action="append", type=Path, help=named + ("; give it once for each, in their order" if most > 1 else ""))
    if kinds := [task for task in tasks if task.kinds is not None]:
        said = "; ".join(f"{task.name}: {', '.join(task.kinds) or 'any word'}" for task in kinds)
        parser.add_argument("--kind", metavar="K", default="", help=f"of the map or of the view ({said})")
    if any(task.guides_by_pictures for task in tasks):
        parser.add_argument("--image-cfg", dest="image_guidance_scale", metavar="G", type=float, help="how closely to follow the pictures")
    for task in tasks:
        if task.settings is not None:
            _add_own(parser, task)


def _add_own(parser: argparse.ArgumentParser, task: Any) -> None:
    """Add the options of a task with settings of its own."""
    group = parser.add_argument_group(f"settings of the task {task.name}")
    if task.paints:
        group.add_argument("--mask", metavar="PIC", type=Path, help="white where to generate, or transparent there (default: where the picture is transparent)")
    for name, each in settings_of(task.settings).items():
        add_setting(group, name, each)


@dataclass(frozen=True)
class TaskOptions:
    """What a command was given for its task.

    Attributes:
        task: the name, or None where a bare prompt or class is asked for.
        own: the task's own settings, by name.
    """

    task: str | None = None
    images: tuple[Path, ...] = ()
    mask: Path | None = None
    kind: str = ""
    own: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """For ``Pipeline.generate``."""
        if self.task is None:
            return {}
        return {"task": self.task, "images": list(self.images), "mask": self.mask, "kind": self.kind, **self.own}

    def request(self, prompt: str, negative: str) -> TaskRequest:
        return TaskRequest(self.task, prompt, negative, self.kind, list(self.images), self.mask, self.own)

    def about(self, family: Family) -> dict[str, Any]:
        """For reports and images: what of it the run used."""
        if self.task is None:
            return {}
        task = family.task(self.task)
        said = {"kind": self.kind, "pictures": [str(path) for path in self.images], "mask": None if self.mask is None else str(self.mask)}
        settings = {} if task.settings is None else asdict(task.settings(**self.own))
        return {**{name: value for name, value in said.items() if value}, **settings}


def read_task(args: argparse.Namespace) -> TaskOptions:
    """What a command was given for its task, the files looked for.

    Raises:
        ValueError: an option belongs to another task, or a file is not there.
    """
    task, images = TASKS.get(args.task), tuple(args.image or ())
    own = {}
    for other in TASKS.values():
        for name in other.setting_names:
            if (value := getattr(args, name, None)) is not None:
                if other is not task:
                    raise ValueError(f"{option(name)} is a setting of the task {other.name}. Leave it out, or choose that task.")
                own[name] = value
    if getattr(args, "image_guidance_scale", None) is not None and not (task and task.guides_by_pictures):
        raise ValueError("--image-cfg counts only for tasks whose prompt shows pictures. Leave it out, or choose such a task.")
    if task is None and (images or args.kind or args.mask):
        raise ValueError(f"{'--image' if images else '--kind' if args.kind else '--mask'} is given, but no task. Choose a --task: {', '.join(TASKS)}.")
    if task and task.paints and getattr(args, "size", (None, None)) != (None, None):
        raise ValueError(f"The task {task.name} takes its size from the picture. Leave --size out; --extend adds to the picture.")
    mask = getattr(args, "mask", None)
    for name, path in [*(("--image", path) for path in images), *([("--mask", mask)] if mask else [])]:
        check_picture(name, path)
    return TaskOptions(args.task, images, mask, getattr(args, "kind", ""), own)


def prompts_for_task(args: argparse.Namespace, called: str = "PROMPT") -> dict[int, str]:
    """The prompts by the numbers of their lines; an empty one for a task that has words of its own, or needs none.

    Args:
        called: what the command calls a prompt.

    Raises:
        ValueError: there is none, or one too many.
    """
    task, given = TASKS.get(args.task), args.prompt is not None or args.prompt_file is not None
    if task is not None and not task.takes_text and given:
        raise ValueError(f"The task {task.name} has words of its own. Leave the prompt out.")
    if task is not None and not given and (task.paints or not task.takes_text):
        return {1: ""}
    return prompts(args, called)


def check_picture(name: str, path: Path) -> None:
    """Raise a ValueError where there is no file: before a large model is loaded."""
    if not path.is_file():
        raise ValueError(f"{name} {path} {'is no file' if path.exists() else 'does not exist'}. Give the path of a picture.")


def look_at(pipeline: Pipeline, options: TaskOptions, prompt: str, negative: str) -> Any:
    """The pictures as the model will read them but for their codes, or None without a task: for checks before the run.

    Raises:
        ValueError: the task does not take these, or one of them is no picture.
    """
    family = pipeline.checkpoint.family
    if options.task is None:
        return None
    family.task(options.task)  # raises where this family has no such task
    return family.task_inputs(pipeline.checkpoint, options.request(prompt, negative), shapes_only(pipeline.checkpoint.image_tokenizer.config.downscale_factor))

