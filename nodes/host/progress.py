"""A run as its user sees it: the host's progress bar, its previews where it makes any, and its stop button."""

from __future__ import annotations

import time

import comfy.model_management
import comfy.utils
import torch
from comfy.cli_args import LatentPreviewMethod, args
from latent_preview import MAX_PREVIEW_RESOLUTION
from PIL import Image

from ...migm_core.canvas import Canvas
from ...migm_core.sampling.loop import StepReport
from ..preview_account import PreviewAccount
from .pictures import decode
from .weights import LoadedModel, fitting_tile


class RunProgress:
    """The host's side of a run: its progress bar, the image filling in, and its stop button.

    Use ``after_step`` as the callback of one or several runs. Call ``start`` before each run, and ``start_part`` before each batch of it
    that is sampled at once.

    Args:
        model: the one that samples; its image tokenizer is loaded.
        steps: of all parts together, as asked for.

    Attributes:
        done: steps so far. Those that a rule leaves out, as nothing is masked any more, are done with the last of their part.
        masked: tokens of each image that are still masked in this part. Counted here, as asking the canvas would wait for the device.
        end: what ``done`` is at the end of this part.
    """

    def __init__(self, model: LoadedModel, steps: int):
        self.model, self.steps, self.done = model, steps, 0
        self.masked, self.end = 0, 0
        self.shown = False  # a preview, in any of the runs
        self.previews = args.preview_method != LatentPreviewMethod.NoPreviews  # the server's, or the page's for this prompt
        self.bar = comfy.utils.ProgressBar(steps)
        self.start()

    def start(self) -> None:
        """Begin a run, with its weights loaded."""
        self.event = None
        self.resumed = time.perf_counter()

    def start_part(self, masked: int, steps: int) -> None:
        """Begin a part of a run: images with so many masked tokens each, sampled in so many steps or fewer."""
        self.masked, self.end = masked, self.done + steps

    def after_step(self, report: StepReport) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._wait_for_last_step()
        self.masked -= report.unmasked
        self.done = self.done + 1 if self.masked else self.end
        account = self.model.previews.setdefault(report.canvas.codes[0].numel(), PreviewAccount())
        self._count(account)
        preview = None
        if self.previews and account.affords(last=self.done == self.steps, shown=self.shown):
            if self.event is not None:
                self.event.synchronize()  # the step's time is not the preview's
                self._count(account)
            preview = self._preview(report.canvas, account)
        self.bar.update_absolute(self.done, self.steps, preview)
        self.resumed = time.perf_counter()

    def _count(self, account: PreviewAccount) -> None:
        """Add the time since the last count or preview to what was sampled."""
        now = time.perf_counter()
        account.sampled += now - self.resumed
        self.resumed = now

    def _wait_for_last_step(self) -> None:
        """Keep the loop one step ahead of a GPU, not dozens: it stays busy, and bar and stop button mean what they say."""
        if self.model.device.type == "cuda":
            before, self.event = self.event, torch.cuda.Event()
            self.event.record()
            if before is not None:
                before.synchronize()

    def _preview(self, canvas: Canvas, account: PreviewAccount) -> tuple:
        """The first image so far, in the host's form."""
        began = time.perf_counter()
        rows, columns = canvas.codes[0].shape
        tile = fitting_tile(self.model, columns * self.model.downscale_factor, rows * self.model.downscale_factor)
        pixels = decode(self.model, canvas.codes[0], canvas.masked[0].cpu(), tile)
        image = Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
        account.pay(time.perf_counter() - began)
        self.shown = True
        return "JPEG", image, MAX_PREVIEW_RESOLUTION
