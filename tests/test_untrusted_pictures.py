"""Pictures that anybody may have made: what is no picture is named in a sentence, before memory or another program is spent on it."""

import os
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from migm_core.families.lumina_dimoo.inputs import read_mask
from migm_core.families.lumina_dimoo.pictures import MAX_PIXELS, Read, read


def refused(action, *words: str) -> None:
    with pytest.raises(ValueError) as caught:
        action()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and message.endswith(".") and len(message) < 700


def png(width: int, height: int) -> bytes:
    """A PNG of such sizes, without its pixels."""
    parts = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDATx", b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such files")
@pytest.mark.parametrize("what", ["a pipe", "/dev/zero", "a folder"])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path, what):
    path = tmp_path / "picture.png"
    {"a pipe": lambda: os.mkfifo(path), "/dev/zero": lambda: path.symlink_to("/dev/zero"), "a folder": path.mkdir}[what]()
    for path_like in (path, str(path)):
        refused(lambda: read(path_like), "picture.png", "is a folder, a device or a pipe")


def test_no_program_is_run_for_a_picture(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n")
    assert Image.open(path).format == "EPS"  # which Pillow reads by its first bytes, whatever its name
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: pytest.fail("Ghostscript was run"))
    refused(lambda: read(path), "picture.png", "cannot be read as a picture")


def test_sizes_are_looked_at_before_pixels_are_read(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(png(MAX_PIXELS // 1000 + 1, 1000))
    refused(lambda: read(path), "picture.png", f"the limit is {MAX_PIXELS:,}")
    path.write_bytes(png(8, 8))
    refused(lambda: read(path), "picture.png", "8x8")


def test_damaged_files_of_many_formats_are_named(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        path = tmp_path / f"picture.{name.lower()}"
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path, name)
        content = path.read_bytes()
        for cut in (1, 20, len(content) // 2):
            path.write_bytes(content[:cut])
            try:
                assert read(path).size == (32, 32)  # some formats show what there is
            except ValueError as error:
                assert str(path) in str(error) and str(error).endswith(".")


@pytest.mark.parametrize("dtype", [">u2", "<u2", ">f4", "f8", "u1"])
def test_arrays_of_either_byte_order_are_the_same_picture(dtype):
    grey = {"u": np.iinfo(np.dtype(dtype)).max if dtype[-2] == "u" else 1}.get(np.dtype(dtype).kind, 1.0)
    assert read(np.full((32, 32, 3), grey, dtype)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("value", [np.zeros((32, 32, 3), "U3"), np.zeros((32, 32, 3), object), np.zeros((32, 32), "u1,u1"), np.zeros((32, 32), "c8")])
def test_arrays_of_no_numbers_are_refused(value):
    refused(lambda: read(value), "The picture", "expected numbers")
    refused(lambda: read_mask(value), "The mask", "expected numbers")


@pytest.mark.parametrize("value", [torch.rand(32, 32, 3, device="meta"), torch.rand(32, 32, 3).to_sparse()])
def test_tensors_without_numbers_are_refused(value):
    refused(lambda: read(value), "The picture", "plain tensor")


def test_premultiplied_transparency_is_read():
    assert read(Image.new("La", (32, 32))).mode == "RGB" and Read.of(Image.new("La", (32, 32))).transparent.max() == 1


def test_a_mask_of_complex_numbers_is_refused():
    refused(lambda: read_mask(torch.ones(32, 32, dtype=torch.complex64)), "The mask")
