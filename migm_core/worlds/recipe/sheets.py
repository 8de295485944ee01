"""Sheets of pictures, to look at while and after training."""

from pathlib import Path

from PIL import Image
from torch import Tensor

from ...images import to_images


def save_sheet(path: Path, rows: list[Tensor], side: int = 192) -> None:
    """Write rows of pictures, (N, 3, h, w) in 0..1 each, as one JPEG file."""
    rows = [to_images(row.float()) for row in rows]
    sheet = Image.new("RGB", (side * max(map(len, rows)), side * len(rows)))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image.resize((side, side), Image.LANCZOS), (x * side, y * side))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=92)
