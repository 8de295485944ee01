"""Compile the base's blocks for the shapes that the stages use, so that they find the result in the cache: beside another stage."""

import time

import torch

from ...models.lumina import Lumina
from ...training.base import initialise
from ...training.padded import PaddedBase, compile_blocks
from .evaluation import AT_ONCE
from .sizes import Sizes


def warm_up(sizes: Sizes, device: torch.device, training: bool = True) -> None:
    """Run a step of training, if asked for, and a pass of sampling, on tokens without meaning."""
    from torch import _dynamo  # slow to import

    _dynamo.config.suppress_errors = False  # who waits for this wants to know
    began = time.monotonic()
    config = sizes.base()
    length, half = sizes.length, device.type == "cuda"
    for training in (True, False)[not training :]:
        model = Lumina(config, output_rows="all")
        initialise(model)
        model = model.to(device) if training else model.to(device, torch.bfloat16 if half else torch.float32).requires_grad_(False)
        compile_blocks(model)
        padded = PaddedBase(model)
        rows = sizes.samples_a_step if training else 2 * max(AT_ONCE, sizes.runs)
        tokens = torch.zeros(rows, length, dtype=torch.int64, device=device)
        rotary = model.rotary(length, device)
        if training:
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                features = padded.features(tokens, rotary)
            features.float().sum().backward()
        else:
            with torch.inference_mode():
                padded.features(tokens, rotary)
        if half:
            torch.cuda.synchronize()
        print(f"Compiled for {'training' if training else 'sampling'} after {time.monotonic() - began:.0f} s.", flush=True)
        del model, padded
