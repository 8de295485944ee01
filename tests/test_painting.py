"""Inpainting and outpainting: which tokens are generated, and how the result joins what was there."""

import numpy as np
import pytest
import torch
from PIL import Image
from refusal import refused_request as refused
from task_pictures import SHORT, half, noisy

from migm_core.families.lumina_dimoo import pictures
from migm_core.families.lumina_dimoo.inputs import read_mask
from migm_core.families.lumina_dimoo.painting import MOSTLY, TOUCHED, Painting, masked_tokens, paint_in


def test_which_tokens_a_mask_takes():
    mask = torch.zeros(1, 24, 32)
    mask[0, :8, :8] = 1  # a whole token,
    mask[0, 3, 20] = 1  # a pixel of one,
    mask[0, 16:, 8:12] = 1  # and half of one
    assert masked_tokens(mask, 8, TOUCHED)[0].nonzero().tolist() == [[0, 0], [0, 2], [2, 1]]
    assert masked_tokens(mask, 8, MOSTLY)[0].nonzero().tolist() == [[0, 0]]


def test_painting_leaves_the_known_pixels_untouched(painter, picture):
    mask = half()
    result = painter.generate("red house", task="paint", images=picture, mask=mask, **SHORT)
    before, after = np.asarray(picture), np.asarray(result.images[0])
    assert (before[:, :32] == after[:, :32]).all() and (before[:, 32:] != after[:, 32:]).any()
    published = painter.generate("red house", task="paint", images=picture, mask=mask, blend=False, **SHORT)
    assert torch.equal(published.tokens, result.tokens)
    assert (before[:, :32] != np.asarray(published.images[0])[:, :32]).any(), "all of it went through the image tokenizer"
    known = painter.encode(pictures.to_pixels(picture)).codes
    assert torch.equal(known[..., :4], result.tokens[..., :4]) and not torch.equal(known[..., 4:], result.tokens[..., 4:])


def test_soft_edges_lie_outside_the_mask_and_are_generated(picture):
    area = paint_in(picture, half(), Painting(feather=10), 8)
    row = area.alpha[32]
    assert (row[32:] == 1).all() and (row[:22] == 0).all()
    assert (row[22:33].diff() >= 0).all() and 0.3 < row[27] < 0.7
    assert area.tokens.repeat_interleave(8, 0).repeat_interleave(8, 1)[area.alpha > 0].all()


def test_the_mask_grows_by_pixels_and_by_tokens(picture):
    def columns(**settings) -> list[int]:
        return paint_in(picture, half(), Painting(**settings), 8).tokens[0].nonzero()[:, 0].tolist()

    assert columns() == [4, 5, 6, 7]
    assert columns(grow=1) == columns(grow=8) == columns(grow_tokens=1) == [3, 4, 5, 6, 7]
    assert columns(grow=9) == [2, 3, 4, 5, 6, 7]
    assert (paint_in(picture, half(), Painting(grow_tokens=1), 8).alpha[0, 24:] == 1).all(), "what the growing generates is shown"
    assert columns(mask_rule=MOSTLY, grow=4) == [4, 5, 6, 7]
    assert columns(grow=8192) == [*range(8)]


def test_an_extension_makes_the_canvas_grow(painter):
    picture = noisy(60, 50)
    result = painter.generate("red house", task="paint", images=picture, extend=(10, 0, 20, 5), **SHORT)
    width, height = result.images[0].size
    assert (width, height) == (96, 56), "whole tokens, a few pixels more than asked for"
    after = np.asarray(result.images[0])
    assert (after[:50, 10:70] == np.asarray(picture)).all()
    assert result.tokens.shape == (1, 7, 12)
    area = paint_in(picture, None, Painting(extend=(10, 0, 20, 5)), 8)
    assert not area.tokens[:6, 2:8].any()
    assert area.tokens[:, :2].all() and area.tokens[:, 9:].all() and area.tokens[6].all()


@pytest.mark.parametrize(
    "extend, size, at",
    [
        ((0, 0, 16, 0), (80, 56), (0, 0)),
        ((16, 0, 0, 0), (80, 56), (20, 0)),
        ((0, 8, 0, 0), (64, 64), (0, 14)),
        ((0, 0, 0, 1), (64, 56), (0, 0)),
        ((8, 8, 8, 8), (80, 72), (8, 8)),
    ],
    ids=str,
)
def test_an_extension_of_one_side_keeps_the_pixels_of_a_picture_whose_other_side_is_no_whole_tokens(extend, size, at):
    picture = noisy(60, 50)
    area = paint_in(picture, None, Painting(extend=extend), 8)
    assert area.picture.size == size and not area.notes
    result = np.asarray(area.finish(Image.new("RGB", size, "red")))
    left, top = at
    there = np.zeros((size[1], size[0]), bool)
    there[top : top + 50, left : left + 60] = True
    assert (result[there] == np.asarray(picture).reshape(-1, 3)).all(), "the picture's own pixels"
    assert (result[~there] == (255, 0, 0)).all(), "all that is added is generated"


def test_a_picture_that_is_squeezed_says_so():
    area = paint_in(noisy(60, 50), half(60, 50), Painting(), 8)
    assert area.picture.size == (56, 48)
    assert len(area.notes) == 1 and "from 60x50 to 56x48 pixels" in area.notes[0] and "change slightly" in area.notes[0]
    assert not paint_in(noisy(56, 48), half(56, 48), Painting(), 8).notes


def test_what_an_extension_adds_continues_the_picture():
    area = paint_in(noisy(32, 32), None, Painting(extend=(0, 0, 32, 0)), 8)
    pixels = np.asarray(area.picture)
    assert (pixels[:, 32:] == pixels[:, 31:32]).all()


def test_what_is_too_large_is_refused_before_it_is_made():
    picture = Image.new("RGB", (64, 64))
    refused(lambda: paint_in(picture, None, Painting(extend=(8192, 8192, 8192, 8192)), 8), "image tokens", "limit is 65,536", "Extend it by less")
    refused(lambda: paint_in(Image.new("RGB", (4096, 2048)), torch.ones(8, 8), Painting(), 8), "4096x2048", "131,072 image tokens")


def test_a_mask_and_an_extension_work_together(picture):
    area = paint_in(picture, half(), Painting(extend=(0, 16, 0, 0)), 8)
    assert area.tokens[:2].all() and area.tokens[:, 4:].all() and not area.tokens[2:, :4].any()


def test_transparent_parts_are_the_mask_where_none_is_given(painter):
    picture = noisy(64, 64, "RGBA")
    picture.putalpha(Image.fromarray(((1 - half()) * 255).byte().numpy()))
    result = painter.generate("red house", task="paint", images=picture, **SHORT)
    mask = painter.generate("red house", task="paint", images=picture, mask=half(), **SHORT)
    assert torch.equal(result.tokens, mask.tokens)


def test_a_mask_is_read_from_a_picture_or_from_numbers(tmp_path):
    grey = Image.fromarray((half() * 255).byte().numpy())
    grey.save(tmp_path / "mask.png")
    for given in (grey, tmp_path / "mask.png", half(), half()[None], half().bool(), half().numpy(), (half() * 255).byte(), half().byte().numpy()):
        assert torch.equal(read_mask(given), half())


def test_a_mask_of_another_size_is_scaled_and_that_is_said(picture):
    area = paint_in(picture, half(20, 10), Painting(), 8)
    assert area.tokens[0].nonzero()[:, 0].tolist() == [4, 5, 6, 7]
    assert "20x10" in area.notes[0] and "64x64" in area.notes[0] and "scaled" in area.notes[0]


def test_a_mask_of_all_is_taken_and_that_is_said(picture):
    assert "nothing of it is left" in paint_in(picture, torch.ones(64, 64), Painting(), 8).notes[0]


def test_a_mask_that_takes_no_token_says_which_rule_would(picture):
    mask = torch.zeros(64, 64)
    mask[5, 5] = 1
    refused(lambda: paint_in(picture, mask, Painting(mask_rule=MOSTLY), 8), "covers no token by more than half", "mask_rule touched")
    refused(lambda: paint_in(picture, mask * 0.2, Painting(), 8), "too faint")
