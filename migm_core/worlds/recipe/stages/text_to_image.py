"""The stages base, trajectories and head: the text to image model and its head."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from ....families.lumina_dimoo.backbone import Lumina
from ....families.lumina_dimoo.head import ShortcutHead
from ....families.lumina_dimoo.initial import deepened, initialise
from ....training.distributed import World
from ....training.masked import train_masked
from .. import lessons, weights
from ..batched import compile_blocks
from ..embeddings import embed_alike
from ..evaluation import Evaluator, Way
from ..padded import PaddedBase, in_training
from ..rounds import Recorded, RunSettings, record_runs, train_on_rounds
from ..sheets import save_sheet
from ..sizes import Sizes
from ..task import LOOK, Task, base_model, base_name, digest, image_tokenizer, new_head, weights_to_begin_with, went_on

SHALLOW = "base-shallow"  # where a base of half of the layers learns
# Its learning rates, and those of what goes on from it: high at first, and falling from the start, since batches are small. And those of all layers at once.
OF_SHALLOW = {"muon_lr": 0.03, "level": 0.0, "warm_up": 15, "floor": 0.17}
AFTER_SHALLOW = {"muon_lr": 0.005, "adam_lr": 1e-3, "level": 0.0, "warm_up": 20}
FROM_NOTHING = {"muon_lr": 0.02, "level": 0.1}
HEAD_GOING_ON = {"muon_lr": 0.004, "adam_lr": 6e-4}  # the head's, from weights that have learned before


def base(task: Task) -> None:
    """Train the base model, text to image, in some sizes with half of its layers at first. Its pictures' codes are kept for the model of classes.

    Raises:
        ValueError: it has learned other tasks since, and what it learned now would go unused.
    """
    folder, sizes, world = task.folder, task.sizes, task.world
    if base_name(folder) == "tasks":
        raise ValueError(f"{folder / 'tasks.safetensors'} is a base that has learned other tasks, which later stages use. To train on, remove it and the folder tasks.")
    images = image_tokenizer(folder, sizes, world.device)

    def on_checkpoint(model: Lumina, progress: float) -> None:
        weights.save(folder, "base", deepened(model, sizes.n_layers))
        look = Evaluator(sizes, images, deepened(model, model.config.n_layers).to(world.device), None, LOOK, "dev")  # a copy, which may become 16 bits
        row = look.of(Way(steps=min(16, sizes.steps)))
        print(f"base: {row.share} right of {row.prompts} in {row.way}", flush=True)
        save_sheet(folder / "base.jpg", list(look.pictures.split(8)))
        task.keep()

    def learned(name: str, model: Lumina, share: float, seed: int, **how) -> Lumina:
        return train_masked(
            folder / name, model, lambda step: lessons.samples(sizes, images, seed, world, step, task.codes, task.compile),
            **task.time | {"seconds": share * task.seconds}, seed=seed, view=in_training, **how,
            compile=compile_blocks if task.compile else None, on_checkpoint=on_checkpoint, world=world,
        )  # fmt: skip

    shallow = folder / SHALLOW / "checkpoint.pt"
    start = None if shallow.exists() else weights_to_begin_with(folder, "base", partial(Lumina, output_rows="all"), sizes.base())
    deep_alone = (folder / "base" / "checkpoint.pt").exists() and not shallow.exists()  # it began with weights that were there
    share = 0.0 if deep_alone else sizes.shallow_share
    how = {"on_policy_every": sizes.on_policy_every}
    torch.manual_seed(task.seed)
    model = Lumina(sizes.base(), output_rows="all")
    initialise(model)
    embed_alike(model, images.quantize.embedding.weight.cpu())
    if start is not None:
        model.load_state_dict(start)
        share = 0.0
    if not went_on(folder, "base", start):
        how |= AFTER_SHALLOW if share else FROM_NOTHING
    if share and not (folder / "base" / "checkpoint.pt").exists():
        fewer = Lumina(replace(sizes.base(), n_layers=sizes.n_layers // 2), output_rows="all")
        initialise(fewer)
        embed_alike(fewer, images.quantize.embedding.weight.cpu())
        model = deepened(learned(SHALLOW, fewer, share, task.seed + 31, **OF_SHALLOW), sizes.n_layers).requires_grad_(True)
        if world.largest(float(time.monotonic() >= task.until)):
            return
    model = learned("base", model, 1 - share, task.seed, **how)
    if world.first:
        on_checkpoint(model, 1.0)


def trajectories(task: Task) -> None:
    """Record runs of the base for the head: tokens and steps, a file a round. The head computes their features again."""
    folder, sizes, world = task.folder / "trajectories", task.sizes, task.world
    model = PaddedBase(_compiled(base_model(task.folder, sizes, world.device).to(task.half), task.compile))
    unconditional = lessons.padded_prompts(sizes).unconditional().to(world.device)
    name, until = digest(task.folder / f"{base_name(task.folder)}.safetensors"), min(task.until, time.monotonic() + task.seconds)
    longest = 0.0
    for index, prompts in zip(range(sizes.recorded), lessons.head_prompts(sizes, task.seed + 1, world)):
        path = _recorded_path(folder, name, index, world)
        if path.exists():
            continue
        began = time.monotonic()
        if began + longest > until:
            break
        runs = record_runs(model, prompts, unconditional, _run_settings(sizes), seed=(task.seed + 1) * 2**32 + (index * world.size + world.rank) * sizes.runs)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"prompts": runs.prompts.to(torch.int16), "codes": runs.codes.to(torch.int16), "unmasked_at": runs.unmasked_at.to(torch.uint8)}
        partly = path.with_suffix(".partly")
        save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, partly)
        partly.replace(path)
        longest = max(longest, time.monotonic() - began)
        if world.first:
            print(f"trajectories: {index + 1} of {sizes.recorded} rounds of {sizes.runs} runs, {sizes.runs / (time.monotonic() - began):.0f} a second", flush=True)


def _recorded_path(folder: Path, name: str, index: int, world: World) -> Path:
    return folder / f"{name}-{index * world.size + world.rank:05d}.safetensors"


def recorded_runs(path: Path) -> Recorded:
    """Runs that the stage trajectories has written.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    found = weights.read(path)
    whole = found.keys() == {"prompts", "codes", "unmasked_at"} and all(each.dim() == 2 and not each.is_floating_point() for each in found.values())
    if not whole or len({len(each) for each in found.values()}) > 1 or found["codes"].shape != found["unmasked_at"].shape:
        raise ValueError(f"{path} holds no recorded runs. Remove it, and run the stage trajectories again.")
    return Recorded(**found)


def _run_settings(sizes: Sizes) -> RunSettings:
    return RunSettings(sizes.side, steps=sizes.steps, budgets=sizes.budgets)


def _compiled(model: torch.nn.Module, wanted: bool) -> torch.nn.Module:
    if wanted:
        compile_blocks(model)
    return model


def head(task: Task) -> None:
    """Train the shortcut head: on recorded runs of the base, on runs that it records itself when these are used up, and on its own."""
    folder, sizes, world = task.folder, task.sizes, task.world
    model = PaddedBase(_compiled(base_model(folder, sizes, world.device).to(task.half), task.compile))
    name = digest(folder / f"{base_name(folder)}.safetensors")

    def recorded(index: int) -> Recorded | None:
        path = _recorded_path(folder / "trajectories", name, index // 2, world)  # every second round is the head's own
        return recorded_runs(path) if path.exists() else None

    start = weights_to_begin_with(folder, "head", ShortcutHead, sizes.head())
    new = new_head(ShortcutHead, sizes.head(), start, task.seed)
    rates = HEAD_GOING_ON if went_on(folder, "head", start) else {}
    found = train_on_rounds(
        folder / "head", new, model, lambda k: lessons.head_prompts(sizes, task.seed, world, k), lessons.padded_prompts(sizes).unconditional(),
        _run_settings(sizes), **task.time, steps_a_round=sizes.steps_a_round, rows_a_step=sizes.rows_a_step, seed=task.seed,
        recorded=recorded, on_policy_first=start is not None, on_checkpoint=task.saver("head"), world=world, **rates,
    )  # fmt: skip
    if world.first:
        weights.save(folder, "head", found)
        task.keep()
