"""Speed switches: what a GPU user may turn on. All are off unless asked for, and each changes some digits of some floats."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .checkpoints import Checkpoint
from .tokenizers.tiled_decoding import check_tile

BACKEND = "inductor"  # of torch.compile


@dataclass(frozen=True)
class Switches:
    """What is on.

    Attributes:
        compile: torch.compile of the base model's blocks. Runs wait for the compiler twice: at the first sequence, and at the first
            sequence of another length; steps and layers share the result. Features differ in their last
            digits, so a close call between two tokens may come out otherwise. Not for the ml-cache method.
        channels_last: the image tokenizer's convolutions keep channels innermost in memory, as cuDNN's do; that saves its copies, not
            always time. Pixels differ in the last digits of floats.
        tile: larger images are decoded in square parts of so many pixels a side; 0 decodes them whole. Takes about a third of the memory,
            and at most twice the time; pixels differ in the last digits of floats.
        tf32: on CUDA, and while a run lasts, matrix products in float32 round their inputs to 10-bit mantissas (TensorFloat-32). Weights in
            16 bits are not affected.
    """

    compile: bool = False
    channels_last: bool = False
    tile: int = 0
    tf32: bool = False

    def check(self, device: torch.device) -> None:
        """Raise a ValueError that names the first switch that cannot be turned on."""
        check_tile(self.tile)
        if self.tf32 and device.type != "cuda":
            raise ValueError(f"tf32 is a number format of CUDA devices, but the device is {device.type}. Leave tf32 out, or choose a CUDA device.")

    def prepare(self, checkpoint: Checkpoint) -> None:
        """Compile blocks and lay out convolutions, in place. Nothing is compiled before the first run."""
        if self.compile:
            for block in checkpoint.base.blocks:
                # Lengths become symbols at the second one that is met: prompts of any length share one more compilation.
                block.compile(backend=BACKEND)
        if self.channels_last:
            checkpoint.image_tokenizer.to(memory_format=torch.channels_last)

    @contextmanager
    def during_run(self) -> Iterator[None]:
        """Set process-wide options for the time of a run.

        Raises:
            ValueError: the compiler does not work.
        """
        with _float32_products("high" if self.tf32 else None), _compiler_errors(self.compile):
            yield


@contextmanager
def _float32_products(precision: str | None) -> Iterator[None]:
    if precision is None:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _compiler_errors(compiled: bool) -> Iterator[None]:
    if not compiled:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # a slow import, which torch.compile makes anyway

    try:
        yield
    except TorchDynamoException as error:
        reason = " ".join(str(error).strip().partition("\n\n")[0].split()).rstrip(".")  # what follows is advice for developers
        raise ValueError(
            f"torch.compile does not work here: {reason}. It needs a C++ compiler on a CPU, and Triton on a GPU. Leave compile out, or install that."
        ) from error
