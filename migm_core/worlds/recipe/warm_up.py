"""Compile the models' blocks for the shapes that the stages use, so that they find the result in the cache: beside another stage."""

import time
import traceback
from collections.abc import Iterable

import torch

from ...devices import fast_dtype, half_precision
from ...families.lumina_dimoo.backbone import Lumina
from ...families.lumina_dimoo.initial import initialise
from ...tokenizers.amused_vq import ImageTokenizer
from ...training.picture_tokenizer import TrainingOperations, compile_tokenizer, picture_loss
from .batched import compile_blocks
from .evaluation import AT_ONCE
from .lessons import ENCODE_AT_ONCE
from .padded import PaddedBase
from .sizes import Sizes


def warm_up(sizes: Sizes, device: torch.device, wanted: Iterable[str]) -> None:
    """Run a step of what is wanted, on inputs without meaning.

    Args:
        wanted: "tokenizer" and "base" for training, "sampling" for passes of the base.

    Raises:
        SystemExit: the base could not be compiled.
    """
    from torch import _dynamo  # slow to import

    _dynamo.config.suppress_errors = False  # who waits for this wants to know
    began = time.monotonic()
    failed = []
    for name in wanted:
        try:
            {"tokenizer": _tokenizer, "base": _base, "sampling": _sampling}[name](sizes, device)
        except Exception:  # the others are worth it all the same
            traceback.print_exc()
            failed.append(name)
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        print(f"Compiled for {name} after {time.monotonic() - began:.0f} s.", flush=True)
    if {"base", "sampling"} & set(failed):
        raise SystemExit(1)


def _tokenizer(sizes: Sizes, device: torch.device) -> None:
    model = ImageTokenizer(sizes.tokenizer, operations=TrainingOperations).to(device, memory_format=torch.channels_last)
    compile_tokenizer(model)
    images = torch.rand(sizes.pictures_a_step, 3, sizes.pixels, sizes.pixels, device=device).contiguous(memory_format=torch.channels_last)
    with half_precision(device):
        shown = model.decode_latents(model.latents(images)).float()
    weights = torch.ones(sizes.pictures_a_step, 1, sizes.pixels, sizes.pixels, device=device)
    torch.compile(picture_loss, dynamic=False)(shown, images, weights).backward()
    with torch.no_grad(), half_precision(device):  # the decoder learns alone in the end
        model.requires_grad_(False).latents(images)


def _base(sizes: Sizes, device: torch.device) -> None:
    """Training, a pass without gradients for states of its own runs, and the encoding of what is learned."""
    model = Lumina(sizes.base(), output_rows="all")
    initialise(model)
    compile_blocks(model.to(device))
    padded, tokens = PaddedBase(model), torch.zeros(sizes.samples_a_step, sizes.length, dtype=torch.int64, device=device)
    rotary = model.rotary(sizes.length, device)
    with half_precision(device):
        features = padded.hidden(tokens, rotary)
    features.float().sum().backward()
    with torch.no_grad(), half_precision(device):
        padded.hidden(tokens, rotary)
        tokenizer = ImageTokenizer(sizes.tokenizer, operations=TrainingOperations).to(device, memory_format=torch.channels_last).requires_grad_(False)
        compile_tokenizer(tokenizer)
        images = torch.rand(min(ENCODE_AT_ONCE, sizes.fill), 3, sizes.pixels, sizes.pixels, device=device)
        tokenizer.latents(images.contiguous(memory_format=torch.channels_last))


def _sampling(sizes: Sizes, device: torch.device) -> None:
    model = Lumina(sizes.base(), output_rows="all").to(device, fast_dtype(device)).requires_grad_(False)
    compile_blocks(model)
    tokens = torch.zeros(2 * max(AT_ONCE, sizes.runs), sizes.length, dtype=torch.int64, device=device)
    with torch.inference_mode():
        PaddedBase(model).hidden(tokens, model.rotary(sizes.length, device))
