"""What a model was trained for, and what to tell somebody who asks it for something else."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Trained:
    """The key ``trained`` of a generation_config.json; a model without it says nothing of itself.

    Attributes:
        sizes: (width, height) in pixels; empty where the model does not say, or makes any size.
        guidance: whether guidance above 0 serves it.
        tasks: by name in its family's ``tasks``, and "understanding"; empty where the model does not say.
        doubts: what its files leave open and its family assumed, a sentence each. No file says them.
    """

    sizes: tuple[tuple[int, int], ...] = ()
    guidance: bool = True
    tasks: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, values: object, source: str) -> "Trained":
        """Read the key's value, an object such as {"sizes": [[64, 64]], "guidance": false}; None for a file without it.

        Raises:
            ValueError: it is of another form.
        """
        if values is None:
            return cls()
        sizes, guidance, tasks = (values.get("sizes", []), values.get("guidance", True), values.get("tasks", [])) if isinstance(values, dict) else (None,) * 3
        lists = isinstance(sizes, list) and isinstance(tasks, list)
        if not isinstance(guidance, bool) or not lists or not all(map(_is_size, sizes)) or not all(isinstance(task, str) for task in tasks):
            expected = '{"sizes": [[width, height], ...], "guidance": true or false, "tasks": [name, ...]}'
            raise ValueError(f"{source}: trained is {values!r:.200}, expected {expected}.")
        return cls(tuple(map(tuple, sizes)), guidance, tuple(tasks))

    def caution(self, task: str) -> str | None:
        """What to tell somebody who asks for a task that the model was not trained for; None for one that it was, or may have been."""
        if not self.tasks or task in self.tasks:
            return None
        return f"This model was not trained for {task}, but for {', '.join(self.tasks)}: what it makes of it means nothing."


def _is_size(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)


def cautions(trained: Trained, settings, negative: str = "") -> list[str]:
    """Say before a run what it will do badly or ignore, one sentence each.

    Args:
        settings: the run's ``Settings``.
        negative: the negative prompt.
    """
    said = [*trained.doubts, *([caution] if settings.task and (caution := trained.caution(settings.task)) else [])]
    if trained.sizes and (settings.width, settings.height) not in trained.sizes:
        sizes = " and ".join(f"{width}x{height}" for width, height in trained.sizes)
        said.append(f"This model was trained for {sizes} pixels only; an image of {settings.width}x{settings.height} will be noise.")
    if settings.guidance_scale > 0 and not trained.guidance:
        said.append(f"This model was not trained for guidance: cfg {settings.guidance_scale:g} makes images worse and takes twice as long. Set cfg to 0.")
    if negative.strip() and settings.guidance_scale == 0:
        said.append("The negative prompt changes nothing, since cfg is 0.")
    return said
