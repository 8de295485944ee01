"""What a run is asked for, and how far each setting may go."""

from dataclasses import dataclass

METHODS = ("vanilla", "shortcut", "ml-cache")
MAX_CELLS = 256 * 256  # 4096x4096 pixels at factor 16; attention over more would run for hours
MAX_BATCH = 64
MAX_STEPS = 1024
MAX_STRENGTH = 1000  # of guidance and temperature; far past it float32 overflows


@dataclass(frozen=True)
class Settings:
    """What a run is asked for. ``width`` and ``height`` in pixels; ``budget`` matters to the shortcut method only."""

    width: int
    height: int
    steps: int
    budget: int
    guidance: float
    temperature: float
    method: str = "shortcut"
    seed: int = 0
    batch: int = 1

    def check(self, factor: int) -> None:
        """Raise a ValueError that names the first setting out of its range.

        Args:
            factor: pixels a token, of the image tokenizer.
        """
        for name in ("width", "height"):
            value = getattr(self, name)
            if value < factor or value % factor:
                raise ValueError(f"{name} is {value}, but must be a positive multiple of {factor} pixels, the size of an image token.")
        cells = (self.width // factor) * (self.height // factor)
        if cells > MAX_CELLS:
            raise ValueError(f"size is {self.width}x{self.height}, {cells:,} image tokens; the limit is {MAX_CELLS:,}. Choose a smaller size.")
        if not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps is {self.steps}, but must be from 1 to {MAX_STEPS}.")
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}, expected one of {', '.join(METHODS)}.")
        if self.method == "shortcut" and not 2 <= self.budget <= self.steps:
            raise ValueError(
                f"budget is {self.budget}, but must be from 2 to the number of steps, {self.steps}: it counts the steps that run the base model. "
                "For every step to do so, choose the vanilla method."
            )
        for name in ("guidance", "temperature"):
            value = getattr(self, name)
            if not 0 <= value <= MAX_STRENGTH:
                raise ValueError(f"{name} is {value}, but must be a number from 0 to {MAX_STRENGTH}.")
        if not 1 <= self.batch <= MAX_BATCH:
            raise ValueError(f"batch is {self.batch}, but must be from 1 to {MAX_BATCH} images.")
        if not 0 <= self.seed <= 2**64 - self.batch:
            raise ValueError(f"seed is {self.seed}, but must be from 0 to 2**64 - 1, with room for one seed an image.")
