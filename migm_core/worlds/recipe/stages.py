"""The stages of the recipe, one function each. They meet in a folder: what one has trained is a file there that the next one reads."""

import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from ...checkpoints import save_checkpoint, save_head
from ...models.image_tokenizer import ImageTokenizer
from ...models.lumina import Lumina
from ...models.shortcut import ShortcutHead
from ...training.distributed import World
from ...training.masked import train_masked
from ...training.padded import PaddedBase, compile_blocks
from ...training.picture_tokenizer import train_picture_tokenizer
from ...training.shortcut_rounds import RunSettings, train_on_rounds
from .. import lakeside
from ..lakeside import reader as judges_reader
from ..lakeside import train_reader
from . import lessons, weights
from .evaluation import Evaluator, Way, table
from .sheets import save_sheet
from .sizes import Sizes

LOOK = 16  # pictures on a sheet while the base trains


def _nothing() -> None:
    """What to do when there is something new to keep, by default."""


def _start(folder: Path, name: str) -> dict | None:
    """Weights to go on from, unless the stage has a checkpoint of its own, which knows more."""
    return None if (folder / name / "checkpoint.pt").exists() else weights.load(folder, name)


def _trained(folder: Path, name: str, model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    found = weights.load(folder, name)
    if found is None:
        raise ValueError(f"{folder / f'{name}.safetensors'} does not exist. Run the stage {name} first, or give a folder with its weights by --init-from.")
    model.load_state_dict(found)
    return model.to(device).eval().requires_grad_(False)


def image_tokenizer(folder: Path, sizes: Sizes, device: torch.device) -> ImageTokenizer:
    """The trained one."""
    return _trained(folder, "tokenizer", ImageTokenizer(sizes.tokenizer), device)


def base_model(folder: Path, sizes: Sizes, device: torch.device) -> Lumina:
    """The trained one, with all output rows."""
    return _trained(folder, "base", Lumina(sizes.base(), output_rows="all"), device)


def reader(folder: Path, sizes: Sizes, seconds: float, until: float, world: World, seed: int = 0, compile: bool = False, keep=_nothing) -> None:
    """Train the judge's reader on the renderer's own pictures, from the weights that it has; a first few steps tell how many there is time for."""
    if not world.first:
        return
    batch, first = (128, 40) if world.device.type == "cuda" else (8, 2)
    train_reader.train(None, 4, batch, world.device)
    began = time.monotonic()
    train_reader.train(None, first, batch, world.device)
    if world.device.type == "cuda":
        torch.cuda.synchronize()
    each = (time.monotonic() - began) / first
    steps = max(first, int(0.9 * min(seconds, until - time.monotonic()) / each))
    print(f"reader: {steps} steps of {batch}, {1 / each:.1f} a second", flush=True)
    start = judges_reader.Reader()
    if judges_reader.WEIGHTS.exists():
        start.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in load_file(judges_reader.WEIGHTS).items()})
    train_reader.save(train_reader.train(None, steps, batch, world.device, start, seed=seed + 1), folder / "reader.safetensors")
    use_reader(folder)
    keep()


def use_reader(folder: Path) -> None:
    """Let the judge read with the folder's reader, if one was trained there."""
    if (folder / "reader.safetensors").exists():
        judges_reader.WEIGHTS = folder / "reader.safetensors"
        judges_reader.load_reader.cache_clear()


def tokenizer(folder: Path, sizes: Sizes, seconds: float, until: float, world: World, seed: int = 0, compile: bool = False, keep=_nothing) -> None:
    """Train the image tokenizer."""
    shown = next(lessons.pictures(sizes, seed + 77, World(device=world.device)))[0][:8]

    def watch(model: ImageTokenizer, phase: int) -> None:
        # What the codes give; before there are any, what the latents give by themselves.
        with torch.no_grad():
            decoded = model.decode(model.encode(shown)) if phase else model.decode_latents(model.latents(shown))
        save_sheet(folder / "tokenizer.png", [shown, decoded.clamp(0, 1)])
        weights.save(folder, "tokenizer", model)
        keep()

    train_picture_tokenizer(
        folder / "tokenizer", sizes.tokenizer, lambda step: lessons.pictures(sizes, seed, world, step), seconds=seconds, until=until, seed=seed,
        start=_start(folder, "tokenizer"), watch=watch, world=world,
    )  # fmt: skip


def base(folder: Path, sizes: Sizes, seconds: float, until: float, world: World, seed: int = 0, compile: bool = False, keep=_nothing) -> None:
    """Train the base model, text to image."""
    trained = image_tokenizer(folder, sizes, world.device)
    unconditional = lessons.padded_prompts(sizes).unconditional()

    def watch(model: Lumina, progress: float) -> None:
        weights.save(folder, "base", model)
        copy = Lumina(sizes.base(), output_rows="all").to(world.device)
        copy.load_state_dict(model.state_dict())
        look = Evaluator(sizes, trained, copy, None, LOOK, "dev")
        row = look.of(Way(steps=min(16, sizes.steps)))
        print(f"base at {progress:.0%}: {row.right} of {row.prompts} right in {row.way}", flush=True)
        save_sheet(folder / "base.png", list(look.pictures.split(8)))
        keep()

    model = train_masked(
        folder / "base", sizes.base(), lambda step: lessons.samples(sizes, trained, seed, world, step), unconditional, seconds=seconds, until=until,
        seed=seed, start=_start(folder, "base"), compile=compile, watch=watch, world=world,
    )  # fmt: skip
    if world.first:
        watch(model, 1.0)


def head(folder: Path, sizes: Sizes, seconds: float, until: float, world: World, seed: int = 0, compile: bool = False, keep=_nothing) -> None:
    """Train the shortcut head on runs of the base."""
    dtype = torch.bfloat16 if world.device.type == "cuda" else torch.float32
    model = base_model(folder, sizes, world.device).to(dtype)
    if compile:
        compile_blocks(model)
    settings = RunSettings(sizes.side, steps=sizes.steps, budgets=sizes.budgets)
    trained = train_on_rounds(
        folder / "head", sizes.head(), PaddedBase(model), lambda k: lessons.head_prompts(sizes, seed, world, k), lessons.padded_prompts(sizes).unconditional(),
        settings, seconds=seconds, until=until, steps_a_round=sizes.steps_a_round, rows_a_step=sizes.rows_a_step, seed=seed,
        start=_start(folder, "head"), world=world,
    )  # fmt: skip
    if world.first:
        weights.save(folder, "head", trained)
        keep()


def ways(sizes: Sizes) -> list[tuple[Way, float]]:
    """What the evaluation tries, the most important first, each with the share of the prompts that it gets."""
    steps, budgets = sizes.steps, sorted(sizes.budgets, reverse=True)
    middle = budgets[len(budgets) // 2]
    found = [(Way(steps=steps), 1.0), *((Way(budget, steps), 1.0) for budget in budgets)]
    found += [(Way(steps=few), 1.0) for few in (13, 14, 16, 32) if few < steps]
    found += [(Way(steps=steps, guidance=0.0), 1.0), *((Way(steps=steps, guidance=g), 0.5) for g in (2.0, 1.0, 3.0, 6.0))]
    found += [(Way(steps=steps, temperature=t), 0.5) for t in (0.5, 0.8)]
    return found + [(Way(middle, steps, guidance=2.0), 0.5), (Way(middle, steps, temperature=0.5), 0.5)]


def evaluation(
    folder: Path, sizes: Sizes, seconds: float, until: float, world: World, seed: int = 0, compile: bool = False, keep=_nothing, prompts: int = 512, split: str = "test"
) -> None:
    """Hold the models against the judge: the image tokenizer, then ways to sample until the time is over. Writes evaluation.json and pictures.png."""
    if not world.first:
        return
    until = min(until, time.monotonic() + seconds)
    found_head = None
    model = base_model(folder, sizes, world.device)
    if (folder / "head.safetensors").exists():
        found_head = _trained(folder, "head", ShortcutHead(sizes.head()), world.device)
    look = Evaluator(sizes, image_tokenizer(folder, sizes, world.device), model, found_head, prompts, split, seed)
    if compile:
        look.compile()
    of_tokenizer, pictures = look.tokenizers()
    print(json.dumps(of_tokenizer), flush=True)
    rows, longest = [], 0.0
    for way, share in ways(sizes):
        if way.budget and found_head is None:
            continue
        if rows and time.monotonic() + longest * share > until:
            print(f"No time for {way}.", flush=True)
            continue
        began = time.monotonic()
        rows.append(look.of(way, max(1, int(share * prompts))))
        longest = longest or time.monotonic() - began
        if len(rows) <= 2:
            pictures += look.pictures[:16].split(8)
        save_sheet(folder / "pictures.png", pictures)
        report = {"tokenizer": of_tokenizer, "rows": [vars(row) for row in rows], "split": split, "prompts": look.texts[:16]}
        (folder / "evaluation.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(table(rows), flush=True)
    keep()


def assemble(folder: Path, sizes: Sizes) -> Path:
    """Write ``folder/checkpoint``, in the published layout, and ``folder/checkpoint/shortcut.safetensors`` where a head is trained; in float16."""
    device, target = torch.device("cpu"), folder / "checkpoint"
    settings = {"width": sizes.pixels, "height": sizes.pixels, "steps": sizes.steps, "budget": sorted(sizes.budgets)[len(sizes.budgets) // 2]}
    settings |= {"guidance": 4.0, "temperature": 1.0, "trained": {"sizes": [[sizes.pixels, sizes.pixels]], "guidance": True}}
    text = lakeside.text_tokenizer().backend_tokenizer.to_str(pretty=True)
    save_checkpoint(target, base_model(folder, sizes, device), image_tokenizer(folder, sizes, device), text, settings, dtype=torch.float16)
    if (folder / "head.safetensors").exists():
        save_head(target / "shortcut.safetensors", _trained(folder, "head", ShortcutHead(sizes.head()), device), dtype=torch.float16)
    return target


STAGES = {"reader": reader, "tokenizer": tokenizer, "base": base, "head": head, "evaluation": evaluation}
