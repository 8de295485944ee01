"""What a run is asked for, and how far each setting may go."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .arguments import shown
from .sampling.backbone import Head
from .sampling.methods import METHODS, Method
from .sampling.rule import MAX_SCALE, Rule

MAX_TOKENS = 256 * 256  # 4096x4096 pixels at 16 a token; attention over more would run for hours
MAX_BATCH = 64
MAX_STEPS = 1024


@dataclass(frozen=True)
class Settings:
    """What a run is asked for.

    Attributes:
        width, height: in pixels.
        steps: that unmask the image.
        guidance_scale: how closely to follow the condition; 0 turns guidance off.
        image_guidance_scale: how closely to follow the input pictures, where there are any.
        task: by its name in the family's ``tasks``; None for what a bare prompt or class asks for.
        rule: how logits become tokens: the family's own settings, such as a temperature.
        method: by its name in ``sampling.methods.METHODS``.
        method_settings: of that method and of others, which leave them alone, such as a budget.
        seed: of the first image; image i has seed + i.
        batch: how many images.
    """

    width: int
    height: int
    steps: int
    guidance_scale: float
    rule: Rule
    method: str = "vanilla"
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    batch: int = 1
    image_guidance_scale: float | None = None
    task: str | None = None

    @property
    def budget(self) -> int | None:
        """How many steps are full, where a method takes that."""
        return self.method_settings.get("budget")

    def build_method(self, head: Head | None = None, of_family: Mapping[str, Any] | None = None) -> Method:
        """Build the method, with a head where it needs one.

        Args:
            of_family: fields that the model's family sets.

        Raises:
            ValueError: there is no such method, or a setting of it is out of its range.
        """
        if not isinstance(self.method, str) or self.method not in METHODS:
            raise ValueError(f"method is {shown(self.method)}, expected one of {', '.join(METHODS)}.")
        return METHODS[self.method].build(self.method_settings, head, of_family or {})

    def used(self) -> dict[str, Any]:
        """Flat, without what the method does not use: for reports and files."""
        of_method = METHODS[self.method].settings() if self.method in METHODS else self.method_settings
        return {
            "method": self.method,
            "steps": self.steps,
            **{name: value for name, value in self.method_settings.items() if name in of_method and value is not None},
            "guidance_scale": self.guidance_scale,
            **({} if self.image_guidance_scale is None else {"image_guidance_scale": self.image_guidance_scale}),
            **({} if self.task is None else {"task": self.task}),
            **asdict(self.rule),
            "width": self.width,
            "height": self.height,
            "seed": self.seed,
            "batch": self.batch,
        }

    def check(self, downscale_factor: int) -> None:
        """Raise a ValueError that names the first setting out of its range.

        Args:
            downscale_factor: pixels a token along each side, of the image tokenizer.
        """
        for name in ("width", "height"):
            value = getattr(self, name)
            _whole(name, value)
            if value < downscale_factor or value % downscale_factor:
                raise ValueError(f"{name} is {shown(value)}, but must be a positive multiple of {downscale_factor} pixels, the size of an image token.")
        tokens = (self.width // downscale_factor) * (self.height // downscale_factor)
        if tokens > MAX_TOKENS:
            count = f"{tokens:,}" if tokens < 10**15 else shown(tokens)
            raise ValueError(f"size is {shown(self.width)}x{shown(self.height)}, {count} image tokens; the limit is {MAX_TOKENS:,}. Choose a smaller size.")
        _whole("steps", self.steps)
        if not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps is {shown(self.steps)}, but must be from 1 to {MAX_STEPS}.")
        for name in ("guidance_scale", "image_guidance_scale"):
            value = getattr(self, name)
            if value is None and name == "image_guidance_scale":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_SCALE:
                raise ValueError(f"{name} is {shown(value)}, but must be a number from 0 to {MAX_SCALE}.")
        _whole("batch", self.batch)
        if not 1 <= self.batch <= MAX_BATCH:
            raise ValueError(f"batch is {shown(self.batch)}, but must be from 1 to {MAX_BATCH} images.")
        _whole("seed", self.seed)
        if not 0 <= self.seed <= 2**64 - self.batch:
            raise ValueError(f"seed is {shown(self.seed)}, but must be from 0 to 2**64 - 1, with room for one seed an image.")
        self.build_method().kinds(self.steps)
        self.rule.keep(tokens, tokens, self.steps)


def _whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is {shown(value)}, but must be a whole number.")
