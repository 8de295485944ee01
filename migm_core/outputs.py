"""What a run leaves on disk: images that say how they were made, and a report of its settings and times."""

import io
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL.PngImagePlugin import PngInfo

from . import __version__
from .pipeline import Pipeline
from .result import Result
from .sampling.methods import METHODS
from .sampling.probe import judge
from .sampling.schedules import SKIPPED, step_kinds, unmasked
from .sampling.timing import median_seconds, speed_up
from .settings import Settings
from .writing import as_json, replacing

OF_IMAGE = ("prompt", "class")  # what may differ from image to image


def image_paths(out: Path, images: int | Sequence[int]) -> list[Path]:
    """Where images go: name-0.png, name-1.png, ... for a number of them, or name-3.png, name-7.png, ... for numbers; ``out`` itself for one."""
    if images == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{image}{out.suffix}") for image in (range(images) if isinstance(images, int) else images)]


def check_writable(path: Path, suffix: str) -> None:
    """Find out before a run whether its output can be written.

    Raises:
        ValueError: the path ends otherwise, is a folder, or lies where nothing can be written.
    """
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path} cannot be written: expected a path that ends in {suffix}.")
    if path.is_dir():
        raise ValueError(f"{path} cannot be written: it is a folder. Name a file.")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} cannot be written: it is a device or a pipe. Name a file.")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}. Create it, or choose another path.")
    try:
        # Permission bits do not tell of read-only and full disks; writing does.
        with path.open("r+b") if path.exists() else nullcontext(), tempfile.TemporaryFile(dir=path.resolve().parent):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}. Choose another path.") from None


def save_images(result: Result, paths: Sequence[Path], about: Mapping[str, Any]) -> None:
    """Write PNGs. Their text ``migm`` holds ``about`` and the settings with each image's own seed, as JSON.

    Args:
        about: where it was used prompt, class, model, head, negative prompt, and what a task was given; a list of prompts or classes has one
            for each image.

    Raises:
        OSError: naming the image that cannot be written; what was there is as it was.
    """
    for index, (image, path) in enumerate(zip(result.images, paths)):
        settings = replace(result.settings, seed=result.seeds[index], batch=1)
        own = _of_image(about, index)
        text = PngInfo()
        if own.get("prompt"):
            text.add_itxt("Description", own["prompt"])
        text.add_text("Software", f"MIGM-Shortcut {__version__}")
        fits = {} if result.head_fits is None else {"head_fits": result.head_fits}
        text.add_itxt("migm", as_json({**own, **used(about, settings), **fits}))
        png = io.BytesIO()
        image.save(png, "PNG", pnginfo=text)
        with replacing(path) as file:
            file.write(png.getvalue())


def _of_image(about: Mapping[str, Any], index: int) -> dict[str, str]:
    """What ``about`` says of one image."""
    return {name: about[name][index] if isinstance(about[name], list) else about[name] for name in OF_IMAGE if name in about}


def used(about: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """What a run used: model, head, negative prompt and what a task was given, of ``about``, and the settings."""
    skipped = {*OF_IMAGE}
    if settings.method in METHODS and not METHODS[settings.method].needs_head:
        skipped.add("head")
    if settings.guidance_scale == 0 or not about.get("negative"):
        skipped.add("negative")
    return {**{name: value for name, value in about.items() if name not in skipped}, **settings.used()}


def summary(result: Result, pipeline: Pipeline, masked: int | None = None) -> str:
    """For example "3.2 s, 5 full and 11 shortcut steps, 2.4 times as fast as 16 full steps": those of the vanilla method.

    Args:
        masked: as for ``plan``.
    """
    kinds, passes = plan(pipeline, result.settings, masked)
    counts = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(sorted(kinds, key=SKIPPED.__eq__))]
    listed = " and ".join(filter(None, [", ".join(counts[:-1]), *counts[-1:]]))
    parts = [f"{result.seconds:.2f} s", f"{listed} steps"]
    if set(kinds) - {"full", SKIPPED} and (times := result.speed_up) is not None:
        parts.append(f"{times:.2f} times as fast as {passes} full steps")
    if result.head_report is not None:
        parts.append(f"the head's predictions {result.head_report}")
    return ", ".join(parts)


def report(
    results: Sequence[Result], pipeline: Pipeline, paths: Sequence[Path], about: Mapping[str, Any], cautions: list[str], masked: int | None = None
) -> dict[str, Any]:
    """Runs with the same settings in numbers, ready for JSON.

    Args:
        results: their seeds follow each other.
        paths: of all images.
        about: as for ``save_images``; a list of prompts has one for each of the paths.
        cautions: what was said of the settings, the pictures and the head.
        masked: as for ``plan``.
    """
    settings = results[0].settings
    kinds, passes = plan(pipeline, settings, masked)
    prompt = about.get("prompt", "")
    probed = [each for result in results for each in result.probed]
    of_head = {"head_fits": judge(probed), "probed": [asdict(each) for each in probed]} if probed else {}
    likelihoods = torch.cat([result.log_likelihood for result in results]).tolist()
    steps = [step for result in results for step in result.step_seconds]
    return {
        "version": __version__,
        "family": pipeline.checkpoint.family.name,
        **used(about, settings),
        "full_steps": [index for index, kind in enumerate(kinds) if kind == "full"],
        "vanilla_passes": passes,
        "seconds": sum(result.seconds for result in results),
        "seconds_per_step": median_seconds(steps),
        "speed_up": speed_up(steps, sum(result.vanilla_passes for result in results), bool(probed)),
        **of_head,
        "images": [
            {"path": str(path), **_of_image(about, index), "seed": settings.seed + index, "log_likelihood": likelihood}
            for index, (path, likelihood) in enumerate(zip(paths, likelihoods, strict=True))
        ],
        "cautions": cautions,
        "unknown_words": pipeline.checkpoint.family.unknown_words(pipeline.checkpoint, prompt if isinstance(prompt, list) else [prompt]),
        "device": str(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "peak_memory_bytes": peak_memory(pipeline.device),
    }


def plan(pipeline: Pipeline, settings: Settings, masked: int | None = None) -> tuple[list[str], int]:
    """The kind of each step of a run, and how many of them unmask something.

    Args:
        masked: tokens of each image to generate; None for all of them.
    """
    factor = pipeline.checkpoint.image_tokenizer.config.downscale_factor
    tokens = (settings.height // factor) * (settings.width // factor)
    masked = tokens if masked is None else masked
    keep = settings.rule.keep(masked, tokens, settings.steps)
    kinds = step_kinds(pipeline.method(settings).kinds(settings.steps), keep, masked)
    return kinds, sum(unmasked(keep, masked, step) > 0 for step in range(settings.steps))


def write_report(path: Path, values: object) -> None:
    """Write JSON for people to read.

    Raises:
        OSError: naming the file.
    """
    with replacing(path) as file:
        file.write((as_json(values, indent=2) + "\n").encode("utf-8"))


def peak_memory(device: torch.device) -> int | None:
    """Most bytes held so far: of the GPU's memory on CUDA, else by this process; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
