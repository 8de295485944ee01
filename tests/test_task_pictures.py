"""Pictures as users have them become pictures as the model reads them, and what is lost is said."""

import math
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from refusal import refused_request as refused
from task_pictures import SIZES, half, noisy

from migm_core.canvas import read_as_white
from migm_core.families.lumina_dimoo import pictures
from migm_core.families.lumina_dimoo.buckets import buckets
from migm_core.families.lumina_dimoo.inputs import MASKS_ITSELF, for_reading


def test_thin_pictures_are_cropped_before_they_are_scaled(monkeypatch):
    largest, resize = [], Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *more: largest.append(max(size)) or resize(self, size, *more))
    prepared = pictures.prepare(noisy(20, 1000), buckets(1024))
    assert prepared.picture.size == (512, 2048)
    assert max(largest[1:]) == 2048, "not 25,600"
    assert "20x1000" in prepared.note and "8%" in prepared.note


@pytest.mark.parametrize("size", [(3000, 2000), (640, 480), (31, 33), (250, 1000)])
def test_ordinary_pictures_are_scaled_and_cropped_as_published(size):
    from migm_core.families.lumina_dimoo.buckets import Fit, nearest

    picture = noisy(*size)
    how = Fit.of(size, nearest(size, buckets(512)))
    prepared = pictures.prepare(picture, buckets(512))
    assert prepared.note == ""
    assert prepared.picture.tobytes() == pictures.fit(picture, how).tobytes()
    left, top, right, bottom = how.box()
    assert (left, top) == (how.slack[0] // 2, how.slack[1] // 2) and (right - left, bottom - top) == how.size


def test_transparent_parts_are_blended_onto_white():
    picture = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 16, 32))
    read = pictures.read(picture)
    assert read.getpixel((3, 3)) == (0, 0, 255) and read.getpixel((20, 3)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    values = np.linspace(0, 65535, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    Image.fromarray(values).save(tmp_path / "deep.png")
    for given in (tmp_path / "deep.png", values, np.stack([values] * 3, axis=-1)):
        assert (np.asarray(pictures.read(given))[..., 0] == np.round(values / 257)).all()


def test_what_is_lost_of_a_picture_is_said(painter, tmp_path):
    half_white, opaque = noisy(64, 64, "RGBA"), noisy(64, 64, "RGBA")
    half_white.putalpha(Image.fromarray(((1 - half()) * 255).byte().numpy())), opaque.putalpha(255)
    deep = np.linspace(0, 65535, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    Image.fromarray(deep).save(tmp_path / "grey.png")
    save_deep_colours(tmp_path / "colours.png", np.stack([deep, deep.T, deep[::-1]], axis=-1))
    white, depth = "has transparent parts: they are read as white.", "has more than 8 bits a channel: it is read with 8."
    for given, expected in [
        (noisy(64, 64), ()),
        (opaque, ()),
        (half_white, (f"The picture {white}",)),
        (deep, (f"The picture {depth}",)),
        (tmp_path / "grey.png", (f"The picture {depth}",)),
        (tmp_path / "colours.png", (f"The picture {depth}",)),
    ]:
        assert pictures.prepare(given, SIZES).notes == expected
        assert painter.generate("red house", task="edit", images=given, steps=1).notes == expected
        assert painter.generate("red house", task="paint", images=given, mask=half(), steps=1).notes == expected
    assert painter.generate(task="style", images=[half_white, deep], steps=1).notes == (f"Picture 1 {white}", f"Picture 2 {depth}")
    assert painter.generate("red house", task="paint", images=half_white, steps=1).notes == (MASKS_ITSELF,)
    refused(lambda: painter.generate("red house", task="paint", images=opaque, steps=1), "nothing to paint")
    reading = for_reading([half_white, deep], lambda pixels: torch.zeros(1, 4, 4, dtype=torch.int64), 16)
    assert reading.notes == (f"Picture 1 {white}", f"Picture 2 {depth}")


def save_deep_colours(path, values: np.ndarray) -> None:
    """Write a PNG of 16 bits a channel, which Pillow cannot."""
    write_png(path, values.shape[1], 16, 2, [row.astype(">u2").tobytes() for row in values])


def write_png(path, width: int, depth: int, colours: int, rows: list[bytes], transparent: bytes | None = None) -> None:
    """Write a PNG of any depth, grey (0) or in colours (2), with a transparent colour where one is given."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, colours, 0, 0, 0)
    seen = b"" if transparent is None else chunk(b"tRNS", transparent)
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + seen + pixels + chunk(b"IEND", b""))


@pytest.mark.parametrize(("depth", "channels"), [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3)])
def test_a_transparent_colour_is_seen_at_every_depth(tmp_path, depth, channels):
    path, most = tmp_path / "picture.png", 2**depth - 1
    values = np.full((32, 32 * channels), most // 3, ">u2")
    values[16:] = most
    bits = np.unpackbits(values.view(np.uint8).reshape(32, -1, 2), axis=2)[..., 16 - depth :]
    rows = [np.packbits(row).tobytes() for row in bits.reshape(32, -1)]
    for colour, share in ((most, [0.0, 1.0]), (most // 3, [1.0, 0.0]), (most * 2 // 3, None if depth > 1 else [1.0, 0.0])):
        write_png(path, 32, depth, 0 if channels == 1 else 2, rows, struct.pack(">H", colour) * channels)
        for given in (path, Image.open(path)):
            read = pictures.Read.of(given)
            assert read.deep == (depth == 16) and read.picture.getpixel((9, 31)) == (255, 255, 255)
            assert share is None if read.transparent is None else [read.transparent[row].unique().tolist() for row in (0, 31)] == [[each] for each in share]
            assert read.picture.getpixel((9, 0)) == ((255,) * 3 if share == [1.0, 0.0] else (255 * (most // 3) // most,) * 3)


def test_a_transparent_grey_of_16_bits_is_that_value_alone(tmp_path):
    path, values = tmp_path / "picture.png", np.arange(32 * 32, dtype=">u2").reshape(32, 32)
    write_png(path, 32, 16, 0, [row.tobytes() for row in values], struct.pack(">H", 300))
    for given in (path, Image.open(path), Image.open(path).copy()):
        assert torch.equal(pictures.Read.of(given).transparent, torch.from_numpy(values == 300).float())
        assert pictures.Read.of(given).losses == (read_as_white("The picture"), "The picture has more than 8 bits a channel: it is read with 8.")


def test_pictures_of_other_modes_are_read(tmp_path):
    picture = noisy(32, 32)
    for mode in ("CMYK", "L", "1", "P", "YCbCr", "HSV"):
        assert pictures.read(picture.convert(mode)).mode == "RGB"
    deep = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    Image.fromarray(deep).save(tmp_path / "deep.tiff")
    assert np.abs(np.asarray(pictures.read(tmp_path / "deep.tiff"))[..., 0] - deep * 255).max() <= 0.5
    deep[3, 3] = math.nan
    refused(lambda: pictures.read(Image.fromarray(deep)), "not finite")


def test_a_picture_lies_as_its_camera_held_it():
    picture = noisy(64, 32)
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    picture.info["exif"] = exif.tobytes()
    assert pictures.read(picture).size == (32, 64)


def test_pixels_of_every_kind_are_the_same_picture(tmp_path):
    picture = noisy(32, 48)
    picture.save(tmp_path / "a.png")
    array = np.asarray(picture)
    for given in (picture, tmp_path / "a.png", str(tmp_path / "a.png"), array, torch.from_numpy(array.copy()), torch.from_numpy(array.copy()).float()[None] / 255):
        assert pictures.read(given).tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Image.new("RGB", (2, 1000)), ("2x1000", "at least 16")),
        (Image.new("RGB", (1, 1)), ("1x1", "at least 16")),
        (torch.full((32, 32, 3), math.nan), ("not finite",)),
        (torch.zeros(32, 32, 2), ("(32, 32, 2)", "4 with alpha")),
        (torch.zeros(2, 32, 32, 3), ("(2, 32, 32, 3)",)),
        (torch.zeros(32, 32, 3, dtype=torch.int64), ("int64", "0..1")),
        (torch.zeros(0, 32, 3), ("empty",)),
        ("nothing/here.png", ("nothing/here.png", "does not exist")),
        (__file__, (__file__, "cannot be read as a picture")),
        (7, ("int", "PIL image")),
        (np.full((32, 32, 3), 120.0), ("120 on average", "expected 0..1", "Divide them by 255")),
    ],
    ids=lambda value: None,
)
def test_what_is_no_picture_is_refused(given, expected):
    refused(lambda: pictures.read(given), "The picture", *expected)


def test_the_second_of_two_pictures_is_named(painter, picture):
    refused(lambda: painter.generate(task="style", images=[picture, Image.new("RGB", (3, 3))]), "Picture 2 has 3x3 pixels")
