"""The stages classes and class-head: the model of classes, MaskGIT's."""

import torch

from ....families.maskgit.backbone import MaskGit
from ....families.maskgit.head import MaskGitHead
from ....training.masked import train_masked
from .. import lessons, maskgit, weights
from ..batched import compile_blocks
from ..evaluation import ClassEvaluator
from ..maskgit import ClassBase
from ..rounds import RunSettings, train_on_rounds
from ..sheets import save_sheet
from ..task import LOOK, Task, class_base_model, image_tokenizer, new_head, weights_to_begin_with, went_on
from .evaluating import CLASS_GUIDANCE, class_ways

# Learning rates from weights that have learned before.
GOING_ON = {"muon_lr": 0.005, "adam_lr": 1e-3, "level": 0.0}
HEAD_GOING_ON = {"muon_lr": 0.003, "adam_lr": 5e-4}


def classes(task: Task) -> None:
    """Train the model of classes, MaskGIT's, over the codes of the base's pictures.

    Raises:
        ValueError: this size has no such model.
    """
    _check_classes(task)
    folder, sizes, world = task.folder, task.sizes, task.world
    images = image_tokenizer(folder, sizes, world.device)
    config = sizes.class_base()

    def on_checkpoint(model: MaskGit, progress: float) -> None:
        weights.save(folder, "classes", model)
        copy = MaskGit(config).to(world.device)
        copy.load_state_dict(model.state_dict())
        look = ClassEvaluator(sizes, images, copy, None, LOOK, task.seed + 3)
        row = look.of(class_ways(sizes)[0])
        print(f"classes: {row.share} right of {row.prompts} in {row.way}", flush=True)
        save_sheet(folder / "classes.jpg", list(look.pictures.split(8)))
        task.keep()

    torch.manual_seed(task.seed)
    model = MaskGit(config)
    maskgit.initialise(model)
    if (start := weights_to_begin_with(folder, "classes", MaskGit, config)) is not None:
        model.load_state_dict(start)
    rates = GOING_ON if went_on(folder, "classes", start) else {}
    model = train_masked(
        folder / "classes", model, lambda step: lessons.class_samples(sizes, images, task.seed, world, step, task.codes, task.compile),
        **task.time, seed=task.seed, view=ClassBase, compile=compile_blocks if task.compile else None,
        on_checkpoint=on_checkpoint, world=world, **rates,
    )  # fmt: skip
    if world.first:
        on_checkpoint(model, 1.0)


def class_head(task: Task) -> None:
    """Train the head of the model of classes, for both of its numbers of steps.

    Raises:
        ValueError: this size has no such model.
    """
    _check_classes(task)
    folder, sizes, world = task.folder, task.sizes, task.world
    model = ClassBase(class_base_model(folder, sizes, world.device).to(task.half))
    kinds = sizes.classes
    settings = [
        RunSettings(sizes.side, steps, CLASS_GUIDANCE, kinds.rule, (budget,), divide_first=True) for steps, budget in zip(kinds.steps, kinds.budgets)
    ]
    start = weights_to_begin_with(folder, "class-head", MaskGitHead, sizes.class_head())
    rates = HEAD_GOING_ON if went_on(folder, "class-head", start) else {}
    found = train_on_rounds(
        folder / "class-head", new_head(MaskGitHead, sizes.class_head(), start, task.seed), model, lambda k: lessons.head_classes(sizes, task.seed, world, k),
        torch.tensor([model.config.dropped_class]), settings, **task.time, steps_a_round=kinds.steps_a_round,
        rows_a_step=kinds.rows_a_step, seed=task.seed, on_policy_first=start is not None, on_checkpoint=task.saver("class-head"), world=world, **rates,
    )  # fmt: skip
    if world.first:
        weights.save(folder, "class-head", found)
        task.keep()


def _check_classes(task: Task) -> None:
    if task.sizes.classes is None:
        raise ValueError("This size has no model of classes: no VQGAN has the sizes of its image tokenizer. Choose another --size, or leave the stage out.")
