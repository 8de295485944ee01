"""The stage tasks: the base goes on from text to image to the other tasks."""

from dataclasses import replace

import torch

from ....families.lumina_dimoo.backbone import Lumina
from ....training.masked import train_masked
from .. import weights
from ..batched import compile_blocks
from ..padded import in_training
from ..sheets import save_sheet
from ..task import Task, base_model, image_tokenizer
from ..task_evaluation import AnswerEvaluator, TaskEvaluator, task_ways
from ..task_lessons import task_samples
from ..tasks import TASKS

SHOWN = 8  # pictures of each task on the sheet
LOOK_STEPS = 16  # that sample them, at most
ON_POLICY_EVERY = 5  # odd, since every second step is text to image: so both come by their own states


def tasks(task: Task) -> None:
    """Train the base on all tasks of the size, text to image among them. The head then wants training on it."""
    folder, sizes, world = task.folder, task.sizes, task.world
    images = image_tokenizer(folder, sizes, world.device)
    model = base_model(folder, sizes, world.device).train().requires_grad_(True)

    def on_checkpoint(model: Lumina, progress: float) -> None:
        weights.save(folder, "tasks", model)
        copy = Lumina(sizes.base(), output_rows="all").to(world.device)
        copy.load_state_dict(model.state_dict())
        rows: list[torch.Tensor] = []
        for name in sizes.tasks:
            way = task_ways(name, sizes)[0]
            if TASKS[name].words:
                answering = AnswerEvaluator(name, sizes, images, copy, 1, "dev")
                answering.of(way)
                print(f"tasks: {answering.asked.texts[0]} {answering.answers[0]} (expected: {answering.asked.answers[0]})", flush=True)
                continue
            look = TaskEvaluator(name, sizes, images, copy, None, SHOWN, "dev")
            row = look.of(replace(way, steps=min(LOOK_STEPS, sizes.steps)))
            print(f"tasks: {row.share} right of {row.prompts}, {row.way}", flush=True)
            rows += [look.asked.pictures, look.pictures]
        if rows:
            save_sheet(folder / "tasks.jpg", rows)
        task.keep()

    found = train_masked(
        folder / "tasks", model, lambda step: task_samples(sizes, images, task.seed, world, step, task.compile), **task.time,
        on_policy_every=ON_POLICY_EVERY, seed=task.seed + 5, view=in_training, compile=compile_blocks if task.compile else None,
        on_checkpoint=on_checkpoint, world=world,
    )  # fmt: skip
    if world.first:
        on_checkpoint(found, 1.0)
