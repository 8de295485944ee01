"""Pictures and masks that are none: values of foreign kinds, and files that are damaged, claim too much or are of a format that runs programs."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .arguments import FOREIGN, TENSORS
from .files import OTHER_THINGS

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "La", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "RGBX")
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX")
READING = 30  # seconds of computing for a picture near the limit of pixels, which is inflated, turned and scaled
NAMES = ("house.png", "wide.png", "mask.png")


def picture(width: int = 32, height: int = 32, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture without two equal parts."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height)).convert(mode)


def save_pictures(folder: Path) -> None:
    """Write the pictures and the mask that tries take: NAMES."""
    for name, seed, size in (("house.png", 0, (32, 32)), ("wide.png", 1, (60, 20))):
        picture(*size, seed=seed).save(folder / name)
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 16:] = 255
    Image.fromarray(mask).save(folder / "mask.png")


def _of_mode(mode: str) -> Callable[[], Image.Image]:
    if mode == "I;16":
        return lambda: Image.fromarray(np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 60)
    return lambda: Image.new(mode, (32, 32))


# Values in the place of a picture or a mask.
VALUES: tuple[Callable[[], object], ...] = (
    *FOREIGN,
    *TENSORS,
    *map(_of_mode, MODES),
    *(lambda size=size: Image.new("RGB", size) for size in ((1, 1), (15, 40), (40, 15), (16, 9000), (33, 31), (0, 0), (0, 40))),
    *(lambda dtype=dtype: np.zeros((32, 32, 3), dtype) for dtype in ("u1", "u2", ">u2", "i8", "f2", "f8", ">f4", "?", "c16", "U3", "O", "M8[s]", "V4", "u4,u2")),
    *(lambda shape=shape: np.zeros(shape, np.uint8) for shape in ((), (0, 0, 3), (32,), (32, 32, 5), (1, 32, 32, 3), (2, 32, 32, 3), (3, 32, 32), (32, 0, 3))),
    *(lambda value=value: np.full((32, 32, 3), value) for value in (float("nan"), float("inf"), -5.0, 300.0)),
    *(lambda value=value: torch.full((32, 32, 3), value) for value in (float("nan"), float("-inf"), 1e30)),
    *(lambda shape=shape: torch.rand(shape) for shape in ((32, 32), (32, 32, 3), (32, 32, 4), (1, 32, 32, 3), (32, 32, 1), (32, 32, 2), (0, 0), (1, 1, 32, 32))),
    lambda: torch.rand(32, 32, 3, device="meta"),
    lambda: torch.rand(32, 32, 3).to_sparse(),
    lambda: torch.rand(32, 32, 3, requires_grad=True),
    lambda: torch.rand(64, 64, 3)[::2, ::2],
    lambda: np.ma.masked_all((32, 32, 3)),
    lambda: np.zeros((64, 32, 3), np.uint8)[::-2],
    lambda: memoryview(bytes(32 * 32 * 3)),
    lambda: (each for each in (picture(),)),
    lambda: {"a": picture()},
    lambda: [[picture()]],
    lambda: _closed(),
    lambda: Path("x\0y"),
    lambda: "x" * 5000,
    lambda: "\udcff.png",
    lambda: Path(".."),
    lambda: "/dev/zero",
    lambda: "house.png",
    lambda: Path("wide.png"),
)


def _closed() -> Image.Image:
    made = Image.open(io.BytesIO(_encoded("PNG")))
    made.close()
    return made


def _encoded(name: str) -> bytes:
    content = io.BytesIO()
    picture().save(content, name)
    return content.getvalue()


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2, data: bytes | None = None) -> bytes:
    """A PNG of claimed sizes, its pixels all 0 where no others are given."""
    if data is None:
        row = zlib.compressobj(1)
        per_row = width * {0: 1, 2: 3, 4: 2, 6: 4}[colour] * depth // 8 + 1
        parts = [row.compress(bytes(per_row)) for _ in range(height)]
        data = b"".join(parts) + row.flush()
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _damaged(rng: random.Random) -> bytes:
    """A picture of some format with bytes changed, or cut."""
    content = bytearray(_encoded(rng.choice(FORMATS)))
    if rng.random() < 0.3:
        return bytes(content[: rng.randrange(len(content))])
    for _ in range(rng.choice((1, 5, 40))):
        content[rng.randrange(min(len(content), rng.choice((60, len(content)))))] = rng.randrange(256)
    return bytes(content)


def _turned(rng: random.Random) -> bytes:
    """A JPEG whose EXIF asks for a turn, or is damaged."""
    exif = Image.Exif()
    exif[0x0112] = rng.choice((3, 6, 8, 0, 99))
    content = io.BytesIO()
    picture().save(content, "JPEG", exif=exif)
    made = bytearray(content.getvalue())
    if rng.random() < 0.6:
        start = made.find(b"Exif")
        for _ in range(rng.choice((1, 4))):
            made[start + 6 + rng.randrange(30)] = rng.randrange(256)
    return bytes(made)


def _eps(rng: random.Random) -> bytes:
    """PostScript, which Pillow would hand to Ghostscript."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(/tmp/attack) (w) file closefile\nshowpage\n%%EOF\n"


CONTENTS: dict[str, Callable[[random.Random], bytes]] = {
    "damaged": _damaged,
    "damaged again": _damaged,
    "EXIF": _turned,
    "PostScript": _eps,
    "a PNG of 60,000x60,000 pixels claimed": lambda rng: _png(60_000, 60_000, data=b"x"),
    "a PNG of 2^31 pixels a side claimed": lambda rng: _png(2**31 - 1, 2**31 - 1, data=b"x"),
    "a PNG of 160 million pixels": lambda rng: _png(16_000, 10_000, colour=rng.choice((0, 2, 6))),
    "a PNG of 60 million pixels": lambda rng: _png(10_000, 6_000, depth=rng.choice((8, 16)), colour=rng.choice((0, 2, 6))),
    "a PNG of 1x60,000,000 pixels": lambda rng: _png(1, 60_000_000, colour=0, data=zlib.compress(bytes(120_000_000), 1)),
    "a PNG with a text of a gigabyte": lambda rng: _png(32, 32, _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**30), 1))),
    "a PNG with a profile of a gigabyte": lambda rng: _png(32, 32, _chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**30), 1))),
    "a PNG of no pixels": lambda rng: _png(0, 0, data=zlib.compress(b"")),
    "a GIF of 65,535x65,535 pixels": lambda rng: b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0" + struct.pack("<HHB", 65535, 65535, 0) + b"\x02\x02L\x01\0;",
    "a BMP of negative sizes": lambda rng: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, rng.choice((-5, 2**31 - 1)), rng.choice((-(2**31), 7)), 1, 24, 0, 0, 0, 0, 0, 0) + bytes(50),
    "a TIFF of offsets past its end": lambda rng: b"II*\0" + struct.pack("<I", rng.choice((8, 2**32 - 1))) + struct.pack("<H", 5) + rng.randbytes(60),
    "a PPM of digits": lambda rng: b"P6 " + b"9" * 5000 + b" 9 255\n",
    "an SVG": lambda rng: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
}


def spoil(rng: random.Random, path: Path) -> str:
    """Put something that is no picture, or one that claims too much, in a file's place; what it is."""
    if rng.random() < 0.3:
        what = rng.choice([name for name in OTHER_THINGS if name not in ("/dev/full", "/dev/stdin")])
        path.unlink(missing_ok=True)
        OTHER_THINGS[what](rng, path)
        return what
    what = rng.choice(list(CONTENTS))
    path.write_bytes(CONTENTS[what](rng))
    return what
