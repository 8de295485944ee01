"""The curve of the paper's figure: accuracy over time, for vanilla with fewer and fewer steps, and for the shortcut."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from .evaluation import Row

WIDTH, HEIGHT, MARGIN, SCALE = 900, 560, 80, 2  # drawn twice as large, for smooth lines
COLOURS = {"vanilla": (90, 98, 110), "shortcut": (208, 72, 40)}
BACKGROUND, INK, LINES = (255, 255, 255), (30, 34, 40), (222, 226, 230)


def points(rows: list[Row], seconds_of: dict[str, float] | None = None) -> dict[str, list[tuple[float, Row]]]:
    """Seconds a picture and row, of the runs with the first row's guidance and temperature, by method, the fastest first."""
    found: dict[str, list[tuple[float, Row]]] = {"vanilla": [], "shortcut": []}
    for row in rows:
        same = all(row.settings[name] == rows[0].settings[name] for name in ("guidance_scale", "temperature"))
        if same and row.right is not None:
            seconds = row.seconds / row.prompts if seconds_of is None else seconds_of[row.way]
            found["shortcut" if row.settings["budget"] else "vanilla"].append((seconds, row))
    return {name: sorted(values, key=lambda pair: pair[0]) for name, values in found.items()}


def save_curve(path: Path, rows: list[Row], seconds_of: dict[str, float] | None = None) -> None:
    """Draw the rows' accuracies, with 95% intervals, over their seconds a picture. Without a judge there is nothing to draw.

    Args:
        seconds_of: of each way, in place of those that the rows themselves took.
    """
    found = points(rows, seconds_of) if rows else {}
    seconds = [x for values in found.values() for x, _ in values]
    if not seconds:
        return
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), BACKGROUND)
    draw = ImageDraw.Draw(image)
    font, small = (ImageFont.load_default(size * SCALE) for size in (15, 12))
    slowest = max(seconds) * 1.08
    low = 0.1 * math.floor(10 * min(row.interval[0] for values in found.values() for _, row in values))
    x_of = lambda x: (MARGIN + (WIDTH - 2 * MARGIN) * x / slowest) * SCALE  # noqa: E731
    y_of = lambda y: (HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (y - low) / (1 - low)) * SCALE  # noqa: E731
    for k in range(11):
        if (value := k / 10) >= low - 1e-9:
            draw.line([x_of(0), y_of(value), x_of(slowest), y_of(value)], LINES, SCALE)
            draw.text((x_of(0) - 8 * SCALE, y_of(value)), f"{value:.0%}", INK, small, anchor="rm")
    for k in range(6):
        x = slowest * k / 5
        draw.text((x_of(x), y_of(low) + 8 * SCALE), f"{x:.3g}", INK, small, anchor="ma")
    draw.line([x_of(0), y_of(1), x_of(0), y_of(low), x_of(slowest), y_of(low)], INK, SCALE)
    draw.text((x_of(slowest / 2), (HEIGHT - 30) * SCALE), "seconds a picture", INK, font, anchor="mm")
    draw.text((x_of(0), (MARGIN - 30) * SCALE), "pictures with everything right, with 95% intervals", INK, font, anchor="lm")
    for place, (name, values) in enumerate(found.items()):
        colour = COLOURS[name]
        draw.line([(x_of(x), y_of(row.right)) for x, row in values], colour, 2 * SCALE)
        for x, row in values:
            draw.line([x_of(x), y_of(row.interval[0]), x_of(x), y_of(row.interval[1])], colour, SCALE)
            radius = 4 * SCALE
            draw.ellipse([x_of(x) - radius, y_of(row.right) - radius, x_of(x) + radius, y_of(row.right) + radius], colour)
            label = str(row.settings["budget"] or row.settings["steps"])
            draw.text((x_of(x) + 7 * SCALE, y_of(row.right) + (-12 if name == "shortcut" else 12) * SCALE), label, colour, small, anchor="lm")
        said = {"vanilla": "vanilla, by steps", "shortcut": "shortcut, by full steps"}[name]
        draw.text(((WIDTH - MARGIN) * SCALE, (HEIGHT - MARGIN - 50 + 22 * place) * SCALE), said, colour, font, anchor="rm")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((WIDTH, HEIGHT), Image.LANCZOS).save(path)
