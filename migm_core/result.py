"""What a run gave."""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from .canvas import Canvas
from .sampling.loop import Recorded
from .sampling.probe import Probed, judge, summary
from .sampling.timing import median_seconds, speed_up
from .settings import Settings


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
        canvas: the finished canvas, (B, H, W).
        images: one for each; none where only a canvas was sampled.
        settings: as run.
        seconds: wall-clock time of sampling and decoding.
        step_seconds: kind ("full", "skipped", or the method's own) and duration of each step. Images whose prompts or masks differ in length
            are sampled one group after the other, and their steps stand here one after the other.
        vanilla_passes: how many of these steps unmasked something: those at which the vanilla method would run the base model.
        log_likelihood: of the tokens that were sampled, given what was there when each was: their log-probabilities under the guided
            logits summed up, float32 (B,), in nats.
        seeds: one for each image.
        recorded: of each step, where asked for; a list for each group of images.
        probed: of each full step but the first, where the shortcut method was asked to probe its head.
        pictures: the task's input pictures, as the model saw them.
        notes: sentences for who should know what became of them.
    """

    canvas: Canvas
    images: list[Image.Image]
    settings: Settings
    seconds: float
    step_seconds: list[tuple[str, float]]
    vanilla_passes: int
    log_likelihood: Tensor
    seeds: tuple[int, ...]
    recorded: list[list[Recorded]] | None = None
    probed: tuple[Probed, ...] = ()
    pictures: tuple[Image.Image, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def head_fits(self) -> str | None:
        """How well the shortcut head's predictions served this run: "good", "fair" or "poor"; None where that was not probed."""
        return judge(self.probed)

    @property
    def head_report(self) -> str | None:
        """That and the numbers, for people: see ``probe.summary``."""
        return summary(self.probed)

    @property
    def tokens(self) -> Tensor:
        """The finished codes, int64 (B, H, W)."""
        return self.canvas.codes

    @property
    def full_steps(self) -> list[int]:
        """Indices of the full steps."""
        return [index for index, (kind, _) in enumerate(self.step_seconds) if kind == "full"]

    @property
    def median_step_seconds(self) -> dict[str, float]:
        """Duration by kind of step, in seconds."""
        return median_seconds(self.step_seconds)

    @property
    def speed_up(self) -> float | None:
        """Against the vanilla method, at the median times; None where no step was full, or times say nothing. What probing the head took counts against this run."""
        return speed_up(self.step_seconds, self.vanilla_passes, bool(self.probed))
