"""The stage tokenizer."""

from dataclasses import replace

import torch

from ....tokenizers.amused_vq import ImageTokenizer
from ....training.distributed import World
from ....training.picture_tokenizer import train_picture_tokenizer
from ...lakeside import reader as judges_reader
from .. import lessons, weights
from ..evaluation import Evaluator
from ..sheets import save_sheet
from ..task import Task, weights_to_begin_with


def tokenizer(task: Task) -> None:
    """Train the image tokenizer; where a base has learned its codes, the decoder alone."""
    folder, sizes = task.folder, task.sizes
    start = weights_to_begin_with(folder, "tokenizer", ImageTokenizer, sizes.tokenizer)
    learned = any((folder / f"{name}.safetensors").exists() for name in ("base", "tasks", "classes"))
    shown = next(lessons.pictures(replace(sizes, picture_uses=1), task.seed + 77, World(device=task.device)))[0][:8]

    def on_checkpoint(model: ImageTokenizer, phase: int) -> None:
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

    # On a CPU, a step of fused blocks takes twice as long.
    train_picture_tokenizer(
        folder / "tokenizer", sizes.tokenizer, lambda step: lessons.pictures(sizes, task.seed, task.world, step), **task.time,
        seed=task.seed, start=start, compile=task.compile and task.device.type == "cuda", outer_last=sizes.outer_last, decoder_alone=learned,
        on_checkpoint=on_checkpoint, world=task.world,
    )  # fmt: skip
