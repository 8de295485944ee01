"""Load once, generate many: what the command line and a Python user call.

    from migm_core.pipeline import Pipeline
    pipeline = Pipeline.load()
    result = pipeline.generate("a large red heart on a navy background")
    result.images[0].save("heart.png")
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .canvas import Canvas
from .checkpoints import Checkpoint, CheckpointError, load_checkpoint, load_head
from .checkpoints.load import BASE_PREFIX
from .models.shortcut import ShortcutHead
from .sampling.methods import Method, MLCache, Shortcut, Vanilla
from .sampling.sampler import StepReport, sample
from .sampling.schedule import SKIPPED
from .sampling.sequence import text_guidance
from .sampling.timing import StepTimer, median_seconds, speed_up
from .settings import MAX_BATCH, MAX_STEPS, MAX_STRENGTH, METHODS, Settings  # some for those who take them from here
from .switches import Switches
from .threads import suited_threads
from .trained import cautions

DEMO = Path(__file__).parent / "demo"
DEMO_HEAD = DEMO / "shortcut.safetensors"


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
        canvas: the finished codes.
        images: one a seed; none where only a canvas was drawn.
        settings: as run.
        seconds: wall-clock time of sampling and decoding.
        step_seconds: kind ("full", "shortcut", "partial", "skipped") and duration of each step.
        vanilla_passes: how many steps unmasked something: those at which the vanilla method would run the base model.
    """

    canvas: Canvas
    images: list[Image.Image]
    settings: Settings
    seconds: float
    step_seconds: list[tuple[str, float]]
    vanilla_passes: int

    @property
    def full_steps(self) -> list[int]:
        return [index for index, (kind, _) in enumerate(self.step_seconds) if kind == "full"]

    @property
    def median_step_seconds(self) -> dict[str, float]:
        """Duration by kind of step, in seconds."""
        return median_seconds(self.step_seconds)

    @property
    def speed_up(self) -> float | None:
        """Against the vanilla method, at the median times; None where no step was full."""
        return speed_up(self.step_seconds, self.vanilla_passes)


class Pipeline:
    """A checkpoint and, if there is one, its shortcut head, on one device.

    Args:
        head_path: where the head came from, for messages.
        device: to compute on, where that is not where the base model's weights lie now.
        switches: what a run turns on; ``load`` has prepared the models for them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        head: ShortcutHead | None,
        head_path: str | Path = "the head",
        device: torch.device | None = None,
        switches: Switches = Switches(),
    ):
        self.checkpoint = checkpoint
        self.head = head
        self.head_path = head_path
        self._device = device
        self.switches = switches

    @classmethod
    def load(
        cls,
        model: str | Path = "demo",
        head: str | Path | None = "auto",
        *,
        dtype="auto",
        device: str | None = None,
        switches: Switches = Switches(),
    ) -> "Pipeline":
        """Load a checkpoint and a head.

        Args:
            model: "demo" for the bundled model, or a folder or file.
            head: a file, None for none, or "auto": the bundled head with the bundled model, else none.
            device: None takes CUDA where there is one.
            switches: for speed or memory; all off by default.
        """
        device = resolve_device(device)
        switches.check(device)
        if head == "auto":
            head = DEMO_HEAD if str(model) == "demo" else None
        checkpoint = load_checkpoint(DEMO if str(model) == "demo" else model, dtype=dtype, device=device)
        loaded = load_head(head, checkpoint.base.config, dtype=checkpoint.base.ln_f.weight.dtype, device=device) if head is not None else None
        switches.prepare(checkpoint)
        return cls(checkpoint, loaded, head or "", switches=switches)

    @property
    def device(self) -> torch.device:
        return self._device or self.checkpoint.base.ln_f.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.checkpoint.base.ln_f.weight.dtype

    def settings(self, **asked) -> Settings:
        """The checkpoint's own settings, with those given (None counts as not given), checked.

        A budget that was not asked for follows the steps that were, in the checkpoint's own proportion.
        """
        asked = {name: value for name, value in asked.items() if value is not None}
        own = self.checkpoint.settings
        single = asked.get("steps", own["steps"]) == 1  # leaves no step to a head
        asked.setdefault("method", "vanilla" if self.head is None or single else "shortcut")
        if "budget" not in asked and asked.get("steps", 0) > 1:
            share = own["budget"] / own["steps"]
            asked["budget"] = min(asked["steps"], max(2, round(asked["steps"] * share)))
        settings = Settings(**{**own, **asked})
        settings.check(self.checkpoint.image_tokenizer.config.factor)
        if settings.method == "shortcut" and self.head is None:
            raise ValueError("The shortcut method needs a shortcut head, and none is loaded. Give one, or choose the vanilla method.")
        if settings.method == "ml-cache" and self.switches.compile:
            raise ValueError(
                "The ml-cache method does not run compiled: its passes write into a cache, and each layer would be compiled for itself. "
                "Leave compile out, or choose another method."
            )
        return settings

    def cautions(self, settings: Settings, prompt: str = "", negative: str = "") -> list[str]:
        """What a run will do badly or ignore, one sentence each: see ``trained.cautions``; and the words that the model does not know."""
        said = cautions(self.checkpoint, settings, negative)
        unknown = self.checkpoint.prompts.unknown_words(prompt, *([negative] if settings.guidance > 0 else []))
        if unknown:
            said.append(f"The model does not know {'this word' if len(unknown) == 1 else 'these words'}: {', '.join(unknown)}.")
        return said

    def method(self, settings: Settings) -> Method:
        return {
            "vanilla": lambda: Vanilla(),
            "shortcut": lambda: Shortcut(self.head, settings.budget),
            "ml-cache": lambda: MLCache(),
        }[settings.method]()

    def generate(
        self,
        prompt: str,
        negative: str = "",
        *,
        canvas: Canvas | None = None,
        callback: Callable[[StepReport], None] | None = None,
        **asked,
    ) -> Result:
        """Draw images of a prompt.

        Args:
            negative: takes the place of the unconditional prompt where it is given.
            canvas: what to draw on, of one image; None for an empty one of the asked size.
            callback: called after each step; what it raises ends the run.
            asked: settings that differ from the checkpoint's own, see ``Settings``.

        Raises:
            ValueError: a setting out of its range, or a prompt that is too long.
            CheckpointError: the weights give no finite numbers.
        """
        if canvas is not None:
            factor = self.checkpoint.image_tokenizer.config.factor
            asked |= {"height": canvas.shape[1] * factor, "width": canvas.shape[2] * factor}
        settings = self.settings(**asked)
        conditional = self.checkpoint.prompts.prompt(prompt)
        branches = text_guidance(conditional, self.checkpoint.prompts.unconditional(negative), settings.guidance)
        return self.run(branches, settings, canvas, callback)

    def run(self, branches, settings: Settings, canvas: Canvas | None = None, callback=None) -> Result:
        """Draw with guidance branches of one's own; otherwise as ``generate``."""
        factor = self.checkpoint.image_tokenizer.config.factor
        if canvas is None:
            canvas = Canvas.empty(1, settings.height // factor, settings.width // factor)
        if canvas.shape[0] != 1:
            raise ValueError(f"The canvas holds {canvas.shape[0]} images; expected one, of which batch draws as many as asked.")
        began = time.perf_counter()
        drawn = self.draw(branches, settings, canvas.repeat(settings.batch), callback)
        pixels = self.decode(drawn.canvas)
        if not pixels.isfinite().all():
            raise CheckpointError(f"{self._culprit('decode')} Nothing was drawn.")
        images = to_images(pixels)
        return replace(drawn, images=images, seconds=time.perf_counter() - began)

    def draw(self, branches, settings: Settings, canvas: Canvas, callback=None) -> Result:
        """Draw on a canvas of ``settings.batch`` images without decoding it: the result has no images."""
        canvas = canvas.to(self.device)
        seeds = range(settings.seed, settings.seed + settings.batch)
        generators = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]
        timer = StepTimer(self.device)
        seen = {SKIPPED}  # kinds of step; what is wrong with a model shows the first time that it runs
        passes = 0

        def after_step(report: StepReport) -> None:
            nonlocal passes
            timer.lap(report)
            passes += report.unmasked > 0
            if report.kind not in seen and not report.finite:
                raise CheckpointError(f"{self._culprit(report.kind)} Nothing was drawn.")
            seen.add(report.kind)
            if callback is not None:
                callback(report)
            timer.start()

        began = time.perf_counter()
        timer.start()
        with self._during_run():
            finished = sample(
                self.checkpoint.base,
                branches,
                canvas,
                self.method(settings),
                steps=settings.steps,
                temperature=settings.temperature,
                generators=generators,
                callback=after_step,
            )
        steps = timer.seconds()  # on CUDA this waits for the last one
        return Result(finished, [], settings, time.perf_counter() - began, steps, passes)

    @torch.inference_mode()
    def decode(self, canvas: Canvas) -> Tensor:
        """Pixels in 0..1, float32 (B, 3, h, w).

        One by one: the decoder's memory would grow with the batch, and an image would differ a little with its company.
        """
        decode, tile = self.checkpoint.image_tokenizer.decode, self.switches.tile
        with self._during_run():
            return torch.cat([decode(codes, tile).float() for codes in canvas.codes.split(1)])

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Canvas:
        """Pixels in 0..1, (B, 3, h, w), to a canvas with nothing unknown."""
        with self._during_run():
            codes = self.checkpoint.image_tokenizer.encode(images.to(self.device, torch.float32))
        return Canvas(codes, torch.zeros_like(codes, dtype=torch.bool))

    @contextmanager
    def _during_run(self) -> Iterator[None]:
        with suited_threads(self.checkpoint.base.config, self.device), self.switches.during_run():
            yield

    def _culprit(self, kind: str) -> str:
        """What is to blame when a step of some kind, or "decode", gives numbers that are not finite."""
        path, what, model, prefix = {
            "shortcut": (self.head_path, "shortcut head", self.head, ""),
            "decode": (self.checkpoint.path, "image tokenizer", self.checkpoint.image_tokenizer, ""),
        }.get(kind, (self.checkpoint.path, "base model", self.checkpoint.base, BASE_PREFIX))
        for name, tensor in model.state_dict().items():
            if not tensor.float().isfinite().all():  # float8 cannot tell by itself
                return f"{path}: the {what}'s tensor {prefix}{name} holds values that are not finite. The file may be damaged: download it again."
        return f"{path}: the {what} gives values that are not finite, computed in {self.dtype}; try dtype fp32."


def resolve_device(name: str | None) -> torch.device:
    """A torch device by name; None takes CUDA where there is one.

    Raises:
        ValueError: an unknown device, or one that this machine lacks.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        torch.Generator(device)  # meta, for one, has none
    except (RuntimeError, AssertionError, ImportError):
        raise ValueError(f"Device {name!r} is not known, or this machine or its PyTorch lacks it. Try cpu.") from None
    return device


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Pixels in 0..1, (B, 3, h, w), to RGB images."""
    arrays = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]
