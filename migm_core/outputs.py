"""What a run leaves on disk: images that say how they were made, and a report of its settings and times."""

import io
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from PIL.PngImagePlugin import PngInfo

from .pipeline import Pipeline, Result
from .writing import as_json, replacing


def image_paths(out: Path, batch: int) -> list[Path]:
    """``out`` for one image; name-0.png, name-1.png, ... for more."""
    return [out] if batch == 1 else [out.with_name(f"{out.stem}-{image}{out.suffix}") for image in range(batch)]


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


def save_images(result: Result, paths: list[Path], about: dict[str, str]) -> None:
    """Write PNGs. Their text ``migm`` holds ``about`` and the settings with each image's own seed, as JSON.

    Raises:
        OSError: naming the picture that cannot be written; what was there is as it was.
    """
    for index, (image, path) in enumerate(zip(result.images, paths)):
        settings = {**asdict(result.settings), "seed": result.settings.seed + index, "batch": 1}
        text = PngInfo()
        text.add_itxt("Description", about["prompt"])
        text.add_text("Software", "MIGM-Shortcut")
        text.add_itxt("migm", as_json({**about, **settings}))
        png = io.BytesIO()
        image.save(png, "PNG", pnginfo=text)
        with replacing(path) as file:
            file.write(png.getvalue())


def report(result: Result, pipeline: Pipeline, paths: list[Path], prompt: str, negative: str) -> dict:
    """A run in numbers, ready for JSON."""
    settings = result.settings
    return {
        "prompt": prompt,
        "negative": negative,
        "method": settings.method,
        "steps": settings.steps,
        "budget": settings.budget,
        "full_steps": result.full_steps,
        "vanilla_passes": result.vanilla_passes,
        "guidance": settings.guidance,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "batch": settings.batch,
        "size": [settings.width, settings.height],
        "seconds": result.seconds,
        "seconds_per_step": {"full": None, "shortcut": None, **result.median_step_seconds},
        "speed_up": result.speed_up,
        "images": [str(path) for path in paths],
        "unknown_words": pipeline.checkpoint.prompts.unknown_words(prompt),
        "cautions": pipeline.cautions(settings, prompt, negative),
        "device": str(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "peak_memory_bytes": peak_memory(pipeline.device),
    }


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
