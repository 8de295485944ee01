"""The stages of the recipe, one function each. They meet in a folder: what one has trained is a file there that the next one reads."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ...families.lumina_dimoo.backbone import Lumina
from ...families.lumina_dimoo.head import ShortcutHead
from ...families.lumina_dimoo.initial import deepened, initialise
from ...families.maskgit.backbone import MaskGit
from ...families.maskgit.head import MaskGitHead
from ...families.maskgit.rule import MaskGitRule
from ...tokenizers.amused_vq import ImageTokenizer
from ...training.distributed import World
from ...training.head import zero_init
from ...training.masked import train_masked
from ...training.picture_tokenizer import train_picture_tokenizer
from ..lakeside import reader as judges_reader
from ..lakeside import train_reader
from . import lessons, maskgit, weights
from .batched import compile_blocks
from .evaluation import ClassEvaluator, Evaluator, Row, Way, read_report, table
from .figure import save_curve
from .lessons import Codes
from .maskgit import ClassBase
from .padded import PaddedBase
from .rounds import Recorded, RunSettings, record_runs, train_on_rounds
from .sheets import save_sheet
from .sizes import Sizes

LOOK = 16  # pictures on a sheet while a base trains
SHALLOW = "base-shallow"  # where a base of half of the layers learns
CLASS_GUIDANCE = 2.8  # as published


@dataclass
class Task:
    """What a stage is asked to do.

    Attributes:
        seconds: of training, over all pieces.
        until: time.monotonic() at which this piece ends.
        clock: what the seconds of the tokenizer, the bases and the heads are read from.
        compile: fuse the models' blocks.
        keep: called in the first process when there is something new to keep.
        prompts: of the evaluation; split: of the scenes that they tell.
    """

    folder: Path
    sizes: Sizes
    seconds: float
    until: float = float("inf")
    clock: Callable[[], float] = time.monotonic
    world: World = field(default_factory=World)
    seed: int = 0
    compile: bool = False
    keep: Callable[[], None] = lambda: None
    prompts: int = 512
    split: str = "test"

    @property
    def device(self) -> torch.device:
        return self.world.device

    @property
    def time(self) -> dict:
        """How long the stage trains, for its ``Run``."""
        return {"seconds": self.seconds, "until": self.until, "clock": self.clock}

    @property
    def half(self) -> torch.dtype:
        """What frozen models compute in."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def codes(self) -> Codes | None:
        """Where the base's pictures are kept for the model of classes; None where there is no such model."""
        if self.sizes.classes is None:
            return None
        return Codes(self.folder / "codes", digest(self.folder / "tokenizer.safetensors"), self.sizes.side)


def digest(path: Path) -> str:
    """A few letters that tell a .safetensors file's content from others.

    Raises:
        CheckpointError: it is none.
    """
    weights.check(path)
    return hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()


def _start(folder: Path, name: str, kind: Callable, config: Any) -> dict | None:
    """Weights to go on from, unless the stage has a checkpoint of its own, which knows more."""
    return None if (folder / name / "checkpoint.pt").exists() else weights.load(folder, name, _shapes(kind, config))


def _shapes(kind: Callable, config: Any) -> torch.nn.Module:
    """A model without numbers."""
    with torch.device("meta"):
        return kind(config)


def trained(folder: Path, name: str, model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """A model with the weights that a stage has left.

    Raises:
        ValueError: it has left none, or those of another model.
    """
    found = weights.load(folder, name, model)
    if found is None:
        raise ValueError(f"{folder / f'{name}.safetensors'} does not exist. Run the stage {name} first, or give a folder with its weights by --init-from.")
    model.load_state_dict(found)
    return model.to(device).eval().requires_grad_(False)


def image_tokenizer(folder: Path, sizes: Sizes, device: torch.device) -> ImageTokenizer:
    """The trained one."""
    return trained(folder, "tokenizer", ImageTokenizer(sizes.tokenizer), device)


def base_model(folder: Path, sizes: Sizes, device: torch.device) -> Lumina:
    """The trained one, with all output rows."""
    return trained(folder, "base", Lumina(sizes.base(), output_rows="all"), device)


def class_base_model(folder: Path, sizes: Sizes, device: torch.device) -> MaskGit:
    """The trained one."""
    return trained(folder, "classes", MaskGit(sizes.class_base()), device)


def reader(task: Task) -> None:
    """Train the judge's reader on the renderer's own pictures, from the weights that it has."""
    if not task.world.first:
        return
    seconds = 0.97 * min(task.seconds, task.until - time.monotonic())
    start = judges_reader.Reader()
    if judges_reader.WEIGHTS.exists():
        start.load_state_dict(weights.read_for(judges_reader.WEIGHTS, start))
    found = train_reader.train(None, task.sizes.reader_batch, task.device, seconds=seconds, reader=start, seed=task.seed + 1)
    train_reader.save(found, task.folder / "reader.safetensors")
    use_reader(task.folder)
    task.keep()


def use_reader(folder: Path) -> None:
    """Let the judge read with the folder's reader, if one was trained there."""
    if (folder / "reader.safetensors").exists():
        judges_reader.WEIGHTS = folder / "reader.safetensors"
        judges_reader.load_reader.cache_clear()


def tokenizer(task: Task) -> None:
    """Train the image tokenizer."""
    folder, sizes = task.folder, task.sizes
    shown = next(lessons.pictures(replace(sizes, picture_uses=1), task.seed + 77, World(device=task.device)))[0][:8]

    def watch(model: ImageTokenizer, phase: int) -> None:
        # What the codes give; before there are any, what the latents give by themselves.
        with torch.no_grad():
            decoded = model.decode(model.encode(shown)) if phase else model.decode_latents(model.latents(shown))
        save_sheet(folder / "tokenizer.jpg", [shown, decoded.clamp(0, 1)])
        weights.save(folder, "tokenizer", model)
        if phase and judges_reader.WEIGHTS.exists():
            pictures = 256 if task.device.type == "cuda" else 16
            found = Evaluator(sizes, model, None, None, pictures, "dev").read_back(pictures)
            print(f"tokenizer: {found:.1%} of {pictures} pictures are read right after it", flush=True)
        task.keep()

    train_picture_tokenizer(
        folder / "tokenizer", sizes.tokenizer, lambda step: lessons.pictures(sizes, task.seed, task.world, step), **task.time,
        seed=task.seed, start=_start(folder, "tokenizer", ImageTokenizer, sizes.tokenizer), compile=task.compile, outer_last=sizes.outer_last,
        watch=watch, world=task.world,
    )  # fmt: skip


def base(task: Task) -> None:
    """Train the base model, text to image, in some sizes with half of its layers at first. Its pictures' codes are kept for the model of classes."""
    folder, sizes, world = task.folder, task.sizes, task.world
    images = image_tokenizer(folder, sizes, world.device)
    unconditional = lessons.padded_prompts(sizes).unconditional()

    def watch(model: Lumina, progress: float) -> None:
        whole = deepened(model, sizes.n_layers).to(world.device)
        weights.save(folder, "base", whole)
        look = Evaluator(sizes, images, whole, None, LOOK, "dev")
        row = look.of(Way(steps=min(16, sizes.steps)))
        print(f"base: {row.share} right of {row.prompts} in {row.way}", flush=True)
        save_sheet(folder / "base.jpg", list(look.pictures.split(8)))
        task.keep()

    def learned(name: str, model: Lumina, share: float, seed: int) -> Lumina:
        return train_masked(
            folder / name, model, lambda step: lessons.samples(sizes, images, seed, world, step, task.codes, task.compile), unconditional,
            **task.time | {"seconds": share * task.seconds}, on_policy_every=sizes.on_policy_every, seed=seed, view=PaddedBase,
            compile=compile_blocks if task.compile else None, watch=watch, world=world,
        )  # fmt: skip

    shallow = folder / SHALLOW / "checkpoint.pt"
    start = None if shallow.exists() else _start(folder, "base", partial(Lumina, output_rows="all"), sizes.base())
    share = sizes.shallow_share
    torch.manual_seed(task.seed)
    model = Lumina(sizes.base(), output_rows="all")
    initialise(model)
    if start is not None:
        model.load_state_dict(start)
        share = 0.0
    elif share and not (folder / "base" / "checkpoint.pt").exists():
        fewer = Lumina(replace(sizes.base(), n_layers=sizes.n_layers // 2), output_rows="all")
        initialise(fewer)
        model = deepened(learned(SHALLOW, fewer, share, task.seed + 31), sizes.n_layers).requires_grad_(True)
        if time.monotonic() >= task.until:
            return
    model = learned("base", model, 1 - share, task.seed)
    if world.first:
        watch(model, 1.0)


def trajectories(task: Task) -> None:
    """Record runs of the base for the head: tokens and steps, a file a round. The head computes their features again."""
    folder, sizes, world = task.folder / "trajectories", task.sizes, task.world
    model = PaddedBase(_compiled(base_model(task.folder, sizes, world.device).to(task.half), task.compile))
    unconditional = lessons.padded_prompts(sizes).unconditional().to(world.device)
    name, until = digest(task.folder / "base.safetensors"), min(task.until, time.monotonic() + task.seconds)
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
    name = digest(folder / "base.safetensors")

    def recorded(index: int) -> Recorded | None:
        path = _recorded_path(folder / "trajectories", name, index // 2, world)  # every second round is the head's own
        return recorded_runs(path) if path.exists() else None

    start = _start(folder, "head", ShortcutHead, sizes.head())
    new = _new_head(ShortcutHead, sizes.head(), start, task.seed)
    found = train_on_rounds(
        folder / "head", new, model, lambda k: lessons.head_prompts(sizes, task.seed, world, k), lessons.padded_prompts(sizes).unconditional(),
        _run_settings(sizes), **task.time, steps_a_round=sizes.steps_a_round, rows_a_step=sizes.rows_a_step, seed=task.seed,
        recorded=recorded, on_policy_first=start is not None, saved=lambda head: weights.save(folder, "head", head), world=world,
    )  # fmt: skip
    if world.first:
        weights.save(folder, "head", found)
        task.keep()


def _new_head(kind: type, config, start: dict | None, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    found = kind(config)
    if start is None:
        zero_init(found)
    else:
        found.load_state_dict(start)
    return found


def classes(task: Task) -> None:
    """Train the model of classes, MaskGIT's, over the codes of the base's pictures.

    Raises:
        ValueError: this size has no such model.
    """
    _check_classes(task)
    folder, sizes, world = task.folder, task.sizes, task.world
    images = image_tokenizer(folder, sizes, world.device)
    config = sizes.class_base()

    def watch(model: MaskGit, progress: float) -> None:
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
    if (start := _start(folder, "classes", MaskGit, config)) is not None:
        model.load_state_dict(start)
    model = train_masked(
        folder / "classes", model, lambda step: lessons.class_samples(sizes, images, task.seed, world, step, task.codes, task.compile),
        torch.tensor([config.dropped_class]), **task.time, seed=task.seed, view=ClassBase, compile=compile_blocks if task.compile else None,
        watch=watch, world=world,
    )  # fmt: skip
    if world.first:
        watch(model, 1.0)


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
        RunSettings(sizes.side, steps, CLASS_GUIDANCE, MaskGitRule(), (budget,), divide_first=True) for steps, budget in zip(kinds.steps, kinds.budgets)
    ]
    start = _start(folder, "class-head", MaskGitHead, sizes.class_head())
    found = train_on_rounds(
        folder / "class-head", _new_head(MaskGitHead, sizes.class_head(), start, task.seed), model, lambda k: lessons.head_classes(sizes, task.seed, world, k),
        torch.tensor([model.config.dropped_class]), settings, **task.time, steps_a_round=kinds.steps_a_round,
        rows_a_step=kinds.rows_a_step, horizon=3, seed=task.seed, on_policy_first=start is not None,
        saved=lambda head: weights.save(folder, "class-head", head), world=world,
    )  # fmt: skip
    if world.first:
        weights.save(folder, "class-head", found)
        task.keep()


def _check_classes(task: Task) -> None:
    if task.sizes.classes is None:
        raise ValueError("This size has no model of classes: no VQGAN has the sizes of its image tokenizer. Choose another --size, or leave the stage out.")


def ways(sizes: Sizes) -> list[tuple[Way, float]]:
    """What the evaluation tries, the most important first, each with the share of the prompts that it gets."""
    steps, budgets = sizes.steps, sorted(sizes.budgets, reverse=True)
    found = [(Way(steps=steps), 1.0), *((Way(budget, steps), 1.0) for budget in budgets)]
    found += [(Way(steps=few), 1.0) for few in sizes.few]
    found += [(Way(steps=steps, guidance_scale=g), 1.0 if g == 0 else 0.5) for g in (0.0, 2.0, 6.0, 1.0, 3.0, 5.0)]
    found += [(Way(steps=steps, temperature=t), 0.5) for t in (0.5, 0.8)]
    return found + [(Way(sizes.budget, steps, guidance_scale=2.0), 0.5), (Way(sizes.budget, steps, temperature=0.5), 0.5)]


def class_ways(sizes: Sizes) -> list[Way]:
    """What the evaluation tries with the model of classes: for each number of steps vanilla, the shortcut, and vanilla with as few steps as cost the same."""
    kinds, found = sizes.classes, []
    for steps, budget, few in zip(kinds.steps, kinds.budgets, kinds.few):
        found += [Way(steps=s, budget=b, guidance_scale=CLASS_GUIDANCE) for s, b in ((steps, 0), (steps, budget), (few, 0))]
    return found


def evaluation(task: Task) -> None:
    """Hold the models against the judge: the image tokenizer, then ways to sample until the time is over; ways that an earlier piece has tried are not tried again.

    Writes evaluation.json, evaluation.md, curve.png and pictures.jpg.
    """
    if not task.world.first:
        return
    folder, sizes, device = task.folder, task.sizes, task.device
    until = min(task.until, time.monotonic() + task.seconds)
    report = _earlier_report(task)
    rows, of_classes = ([Row(**row) for row in report[name]] for name in ("rows", "classes"))
    images = image_tokenizer(folder, sizes, device)
    look = Evaluator(sizes, images, base_model(folder, sizes, device), _found(folder, "head", ShortcutHead, sizes.head(), device), task.prompts, task.split, task.seed)
    if task.compile:
        look.compile()
    looks = [(look, rows, way, share) for way, share in ways(sizes)]
    if (folder / "classes.safetensors").exists():
        head_of_classes = _found(folder, "class-head", MaskGitHead, sizes.class_head(), device)
        look_at_classes = ClassEvaluator(sizes, images, class_base_model(folder, sizes, device), head_of_classes, min(task.prompts, 500), task.seed)
        looks[2:2] = [(look_at_classes, of_classes, way, 1.0) for way in class_ways(sizes)]  # after what matters most
        look_at_classes.first = _verdicts(of_classes)
    look.first = _verdicts(rows)
    report["tokenizer"], sheet = look.tokenizers(min(1000, task.prompts))
    print(json.dumps(report["tokenizer"]), flush=True)
    report["prompts"] = look.texts[:16]
    slowest, shown = 0.0, 0
    for number, (look, found, way, share) in enumerate(looks):
        if any(row.way == str(way) for row in found) or way.budget and look.head is None:
            continue
        if number and time.monotonic() + slowest * share > until:
            print(f"No time for {way}.", flush=True)
            continue
        began = time.monotonic()
        found.append(look.of(way, max(1, int(share * len(look.prompts)))))
        slowest = max(slowest, time.monotonic() - began)
        if shown < 4:
            sheet += look.pictures[:16].split(8)
            shown += 1
            save_sheet(folder / "pictures.jpg", sheet)
        report["rows"], report["classes"] = [vars(row) for row in rows], [vars(row) for row in of_classes]
        (folder / "evaluation.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        (folder / "evaluation.md").write_text(f"{table(rows)}\n\n{table(of_classes)}\n", encoding="utf-8")
        save_curve(folder / "curve.png", rows)
    print(table(rows), table(of_classes), sep="\n\n", flush=True)
    task.keep()


def _earlier_report(task: Task) -> dict:
    """What an evaluation of the same models on the same prompts has written; else an empty one."""
    files = [task.folder / f"{name}.safetensors" for name in ("reader", "tokenizer", "base", "head", "classes", "class-head")]
    models = {path.stem: digest(path) for path in files if path.exists()}
    of_classes = {name: models.pop(name) for name in ("classes", "class-head") if name in models}
    about = {"split": task.split, "count": task.prompts, "seed": task.seed, "models": models}
    path = task.folder / "evaluation.json"
    earlier = read_report(path) if path.exists() else {}
    same = all(earlier.get(name) == value for name, value in about.items())
    about |= {"rows": earlier["rows"] if same else [], "models_of_classes": of_classes}
    return about | {"classes": earlier["classes"] if same and earlier["models_of_classes"] == of_classes else []}


def _verdicts(rows: list[Row]) -> list[bool] | None:
    """Of the first row."""
    return [each == "1" for each in rows[0].verdicts] if rows and rows[0].verdicts else None


def _found(folder: Path, name: str, kind: type, config, device: torch.device) -> torch.nn.Module | None:
    return trained(folder, name, kind(config), device) if (folder / f"{name}.safetensors").exists() else None


STAGES = {
    "reader": reader,
    "tokenizer": tokenizer,
    "base": base,
    "trajectories": trajectories,
    "head": head,
    "classes": classes,
    "class-head": class_head,
    "evaluation": evaluation,
}
