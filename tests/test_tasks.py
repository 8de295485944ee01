"""Editing, control, maps, subjects, styles, views and painting: what users give becomes what the model reads, and every method samples it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from migm_core.families.lumina_dimoo import pictures
from migm_core.families.lumina_dimoo.buckets import INPUTS, buckets
from migm_core.families.lumina_dimoo.inputs import read_mask
from migm_core.families.lumina_dimoo.painting import MOSTLY, TOUCHED, Painting, masked_tokens, paint_in
from migm_core.families.lumina_dimoo.rule import BELOW, LuminaRule
from migm_core.families.lumina_dimoo.sequence import image_tokens
from migm_core.families.lumina_dimoo.tasks import TASKS
from migm_core.families.request import TaskRequest
from migm_core.pipeline import Pipeline
from migm_core.sampling.guidance import guide
from migm_core.sampling.methods import Shortcut
from migm_core.sampling.probe import FAIR, GOOD, Probed, compare, judge
from migm_core.trained import Trained

SIZES = ((64, 64), (96, 32), (32, 96))
SHORT = {"steps": 6, "budget": 3}
WITH_PICTURES = [task for task in TASKS.values() if task.pictures and not task.paints]


@pytest.fixture(scope="module")
def painter(pipeline) -> Pipeline:
    """The tiny model with small sizes of its own: its input pictures take these."""
    return Pipeline(replace(pipeline.checkpoint, trained=Trained(SIZES)), pipeline.head)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return noisy(64, 64)


def noisy(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture without two equal parts, smooth enough to be scaled."""
    channels = {"RGB": 3, "RGBA": 4}[mode]
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, channels), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def asked(task, **values) -> dict:
    """The least that a task needs."""
    kind = next(iter(task.kinds), "left") if task.kinds is not None else ""
    return {"task": task.name, "prompt": "red heart" if task.takes_text else "", "kind": kind, **values}


def refused(action, *expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        action()
    message = str(caught.value)
    assert all(part in message for part in expected), message
    assert "\n" not in message and message.endswith(".")


# From a request to branches.


@pytest.mark.parametrize("task", WITH_PICTURES, ids=lambda task: task.name)
def test_the_branches_drop_the_text_and_the_pictures(painter, task):
    encoder, layout = painter.checkpoint.prompts, painter.checkpoint.base.config.tokens
    codes = [torch.randint(0, 32, (2, 3), generator=torch.Generator().manual_seed(k)) for k in range(len(task.pictures))]
    request = TaskRequest(**asked(task))
    conditional, no_text, no_picture = task.branches(encoder, request, codes, 2.5, 4.0)
    shown = torch.cat([image_tokens(each, layout) for each in codes]).tolist()
    assert len(shown) == len(task.pictures) * (2 * 4 + 2)
    text, unconditional = encoder.prompt(task.text("red heart", request.kind), task.system).tolist(), encoder.unconditional("", task.system).tolist()
    assert conditional.prompt.tolist() == [*text[:-1], *shown, text[-1]]
    assert no_text.prompt.tolist() == [*unconditional[:-1], *shown, unconditional[-1]]
    assert no_picture.prompt.tolist() == text
    assert (conditional.weight, no_text.weight, no_picture.weight) == (7.5, -2.5, -4.0)
    assert (conditional.prompt_visible, no_text.prompt_visible, no_picture.prompt_visible) == (True, False, False)


@pytest.mark.parametrize(("scales", "branches"), [((2.5, 4.0), 3), ((2.5, 0.0), 2), ((0.0, 4.0), 2), ((0.0, 0.0), 1)])
def test_a_branch_without_weight_is_not_computed(painter, picture, scales, branches):
    asked_for = {"guidance_scale": scales[0], "image_guidance_scale": scales[1]}
    result = painter.generate("red heart", task="edit", images=picture, record=True, steps=2, method="vanilla", **asked_for)
    (steps,) = result.recorded
    assert {len(step.features) for step in steps} == {branches}


def test_defaults_of_image_to_image_are_the_published_ones(painter):
    settings = painter.settings(task="edit")
    assert (settings.guidance_scale, settings.image_guidance_scale) == (2.5, 4.0)
    assert painter.settings(task="paint").guidance_scale == painter.settings().guidance_scale
    assert settings.used()["task"] == "edit"
    unguided = Pipeline(replace(painter.checkpoint, trained=Trained(SIZES, guidance=False)), None)
    assert (unguided.settings(task="edit").guidance_scale, unguided.settings(task="edit").image_guidance_scale) == (0, 0)


@pytest.mark.parametrize("task", WITH_PICTURES, ids=lambda task: task.name)
def test_every_task_generates(painter, task):
    images = [noisy(90, 30, seed=1), noisy(200, 210, seed=2)][: len(task.pictures)]
    result = painter.generate(**asked(task), images=images, **SHORT)
    size = SIZES[0] if len(images) == 2 else SIZES[1]
    assert [image.size for image in result.images] == [size], "the last picture decides, and the result stands alone"
    assert [image.size for image in result.pictures] == [SIZES[1], SIZES[0]][: len(images)]


def test_the_order_of_two_pictures_matters(painter):
    first, second = noisy(64, 64, seed=1), noisy(64, 64, seed=2)
    one, other = (painter.generate(task="style", images=images, temperature=0, **SHORT).tokens for images in ([first, second], [second, first]))
    assert not torch.equal(one, other)


def test_the_result_may_have_any_size(painter, picture):
    result = painter.generate("red heart", task="edit", images=picture, width=48, height=80, **SHORT)
    assert result.images[0].size == (48, 80)
    refused(lambda: painter.generate("red heart", task="edit", images=picture, width=50), "width is 50", "multiple of 8")


def test_a_model_that_names_no_sizes_takes_the_published_buckets(pipeline):
    inputs = pipeline.checkpoint.family.task_inputs(
        pipeline.checkpoint, TaskRequest("edit", "red heart", pictures=noisy(300, 100)), lambda pixels: torch.zeros(1, *pixels.shape[-2:], dtype=torch.int64)
    )
    assert inputs.size in buckets(INPUTS)


def test_several_prompts_share_their_pictures(painter, picture):
    several = painter.generate(["red heart", "blue star"], task="edit", images=picture, seeds=[3, 3], **SHORT)
    for prompt, tokens in zip(["red heart", "blue star"], several.tokens):
        assert torch.equal(painter.generate(prompt, task="edit", images=picture, seed=3, **SHORT).tokens[0], tokens)


# Acceleration.


@pytest.mark.parametrize("scales", [(2.5, 4.0), (0.0, 4.0), (2.5, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("method", ["vanilla", "shortcut", "ml-cache"])
def test_an_image_of_a_batch_is_its_single_run(painter, picture, method, scales):
    settings = {"method": method, "guidance_scale": scales[0], "image_guidance_scale": scales[1], **SHORT}
    batch = painter.generate("red heart", task="edit", images=picture, seed=5, batch=2, **settings)
    for index in range(2):
        single = painter.generate("red heart", task="edit", images=picture, seed=5 + index, **settings)
        assert torch.equal(single.tokens[0], batch.tokens[index])


@pytest.mark.parametrize("task", ["edit", "paint"])
def test_a_budget_of_all_steps_gives_vanilla_s_tokens(painter, picture, task):
    mask = {"mask": half()} if task == "paint" else {}
    vanilla, shortcut = (
        painter.generate("red heart", task=task, images=picture, steps=6, **mask, **method) for method in ({"method": "vanilla"}, {"method": "shortcut", "budget": 6})
    )
    assert torch.equal(vanilla.tokens, shortcut.tokens)


def half(width: int = 64, height: int = 64) -> torch.Tensor:
    mask = torch.zeros(height, width)
    mask[:, width // 2 :] = 1
    return mask


@pytest.mark.parametrize("task", ["edit", "paint"])
def test_a_shortcut_run_says_how_far_the_head_was_off(painter, picture, task):
    more = {"mask": half()} if task == "paint" else {}
    result = painter.generate("red heart", task=task, images=picture, steps=8, budget=4, **more)
    assert [probed.step for probed in result.probed] == result.full_steps[1:]
    assert result.head_fits == "poor", "a head with random weights"
    assert "does not predict this task well" in result.notes[-1] and result.head_report in result.notes[-1]
    assert result.head_report.startswith("poor: off by ") and "nats" in result.head_report
    silent = painter.generate("red heart", task=task, images=picture, steps=8, budget=4, probe=False, **more)
    assert silent.probed == () and silent.head_fits is None and silent.head_report is None
    assert torch.equal(silent.tokens, result.tokens), "measuring changes nothing"


def test_a_head_that_predicts_no_motion_is_as_good_as_standing_still(painter, picture, still_head):
    method = Shortcut(still_head, budget=5)
    result = painter.generate("red heart", task="edit", images=picture, steps=5, method=method)
    assert len(result.probed) == 4
    for probed in result.probed:
        assert probed.kl == pytest.approx(probed.still_kl, rel=1e-4) and probed.kl > FAIR
    assert result.head_fits == "poor"


@pytest.fixture
def still_head(painter):
    import copy

    head = copy.deepcopy(painter.head)
    for parameter in head.proj_out.parameters():
        parameter.data.zero_()
    return head


def test_what_the_probe_measures(painter, picture):
    base = painter.checkpoint.base
    true, guess = torch.randn(2, 2, 1, 3, base.config.width, generator=torch.Generator().manual_seed(0)).unbind(1)
    positions = [torch.arange(3)[None]] * 2
    cosine, kl = compare(base, list(true), list(guess), positions, [3.0, -2.0])
    with torch.no_grad():
        p, q = (guide([base.code_logits(f) for f in features], [3.0, -2.0]).log_softmax(-1) for features in (true, guess))
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum") / 3
    assert kl.item() == pytest.approx(expected.item(), rel=1e-4)
    assert cosine.item() == pytest.approx(torch.cosine_similarity(true, guess, dim=-1).mean().item(), abs=1e-5)
    cosine, kl = compare(base, list(true), list(true), positions, [3.0, -2.0])
    assert (cosine.item(), kl.item()) == (pytest.approx(1), pytest.approx(0, abs=1e-6))


@pytest.mark.parametrize(
    ("kl", "still", "word"),
    [(GOOD, 1.0, "good"), (GOOD, GOOD / 2, "good"), (FAIR, 1.0, "fair"), (FAIR, FAIR / 2, "fair"), (FAIR * 1.1, 9.0, "poor"), (math.nan, 1.0, "poor")],
)
def test_the_word_for_a_head(kl, still, word):
    assert judge([Probed(1, 0.9, kl, still), Probed(2, 0.9, kl, still)]) == word
    assert judge([]) is None


def test_below_the_cut_off_a_batch_is_sampled_one_by_one(painter, picture):
    settings = {"remasking": BELOW, "steps": 40, "temperature": 1.0, "method": "vanilla"}
    batch = painter.generate("red heart", task="edit", images=picture, batch=2, width=32, height=32, **settings)
    single = painter.generate("red heart", task="edit", images=picture, seed=1, width=32, height=32, **settings)
    assert torch.equal(batch.tokens[1], single.tokens[0])
    assert not torch.equal(single.tokens, painter.generate("red heart", task="edit", images=picture, seed=1, width=32, height=32, **settings | {"remasking": "exact"}).tokens)


def test_below_the_cut_off_ties_are_unmasked_together():
    confidence = torch.tensor([[0.1, 0.5, 0.5, 0.5, 0.9]])
    assert LuminaRule(remasking=BELOW).stay(confidence, 3) == 1
    assert LuminaRule().stay(confidence, 3) == 3
    assert LuminaRule(remasking=BELOW).stay(confidence, 9) == 4, "one is always unmasked"
    with pytest.raises(ValueError, match="one by one"):
        LuminaRule(remasking=BELOW).stay(torch.cat([confidence, confidence.flip(1).cumsum(1)]), 3)


# Pictures.


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
    ],
    ids=lambda value: None,
)
def test_what_is_no_picture_is_refused(given, expected):
    refused(lambda: pictures.read(given), "The picture", *expected)


# Painting.


def test_which_tokens_a_mask_takes():
    mask = torch.zeros(1, 24, 32)
    mask[0, :8, :8] = 1  # a whole token,
    mask[0, 3, 20] = 1  # a pixel of one,
    mask[0, 16:, 8:12] = 1  # and half of one
    assert masked_tokens(mask, 8, TOUCHED)[0].nonzero().tolist() == [[0, 0], [0, 2], [2, 1]]
    assert masked_tokens(mask, 8, MOSTLY)[0].nonzero().tolist() == [[0, 0]]


def test_painting_leaves_the_known_pixels_untouched(painter, picture):
    mask = half()
    result = painter.generate("red heart", task="paint", images=picture, mask=mask, **SHORT)
    before, after = np.asarray(picture), np.asarray(result.images[0])
    assert (before[:, :32] == after[:, :32]).all() and (before[:, 32:] != after[:, 32:]).any()
    published = painter.generate("red heart", task="paint", images=picture, mask=mask, blend=False, **SHORT)
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
    result = painter.generate("red heart", task="paint", images=picture, extend=(10, 0, 20, 5), **SHORT)
    width, height = result.images[0].size
    assert (width, height) == (96, 56), "whole tokens, a few pixels more than asked for"
    after = np.asarray(result.images[0])
    assert (after[:50, 10:70] == np.asarray(picture)).all()
    assert result.tokens.shape == (1, 7, 12)
    area = paint_in(picture, None, Painting(extend=(10, 0, 20, 5)), 8)
    assert not area.tokens[:6, 2:8].any()
    assert area.tokens[:, :2].all() and area.tokens[:, 9:].all() and area.tokens[6].all()


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
    result = painter.generate("red heart", task="paint", images=picture, **SHORT)
    mask = painter.generate("red heart", task="paint", images=picture, mask=half(), **SHORT)
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


# Bad input: one sentence each.


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"task": "edit"}, ("edit takes 1 picture", "none is given")),
        ({"task": "edit", "images": 2}, ("edit takes 1 picture", "2 are given")),
        ({"task": "style", "images": 1}, ("style takes 2 pictures", "whose style it gets", "1 is given")),
        ({"task": "style", "images": 3}, ("style takes 2 pictures", "3 are given")),
        ({"task": "text-to-image", "images": 1}, ("takes no picture", "1 is given")),
        ({"images": 1}, ("no task", "edit")),
        ({"task": "paint"}, ("paint takes 1 picture",)),
        ({"task": "paint", "images": 1}, ("nothing to paint", "mask")),
        ({"task": "paint", "images": 1, "mask": torch.zeros(64, 64)}, ("mask is empty",)),
        ({"task": "paint", "images": 1, "mask": torch.full((64, 64), math.nan)}, ("mask", "not finite")),
        ({"task": "paint", "images": 1, "mask": torch.ones(64, 64), "width": 32}, ("size from the picture",)),
        ({"task": "paint", "images": 1, "mask": torch.ones(64, 64), "extend": (1, 2)}, ("extend is (1, 2)", "left, top, right, bottom")),
        ({"task": "paint", "images": 1, "mask": torch.ones(64, 64), "feather": -1}, ("feather is -1",)),
        ({"task": "edit", "images": 1, "mask": torch.ones(64, 64)}, ("edit takes no mask",)),
        ({"task": "edit", "images": 1, "prompt": " "}, ("needs a prompt",)),
        ({"task": "edit", "images": 1, "prompt": 7}, ("prompt is 7", "expected text")),
        ({"task": "dense", "images": 1}, ("needs a kind", "canny")),
        ({"task": "dense", "images": 1, "kind": "lineart"}, ("needs a kind", "'lineart'")),
        ({"task": "multi-view", "images": 1}, ("needs a kind", "left")),
        ({"task": "edit", "images": 1, "kind": "canny"}, ("has no kinds", "'canny'")),
        ({"task": "edits", "images": 1}, ("task is 'edits'", "edit, control")),
        ({"task": "edit", "images": 1, "image_guidance_scale": -1}, ("image_guidance_scale is -1",)),
        ({"task": "edit", "images": 1, "remasking": "cut"}, ("remasking is 'cut'", "exact, below-cut-off")),
    ],
    ids=lambda value: None,
)
def test_what_a_task_does_not_take_is_refused(painter, picture, values, expected):
    values = {"prompt": "red heart", **values}
    values["images"] = [picture] * values.get("images", 0)
    refused(lambda: painter.generate(**values), *expected)


def test_a_mask_that_takes_no_token_says_which_rule_would(picture):
    mask = torch.zeros(64, 64)
    mask[5, 5] = 1
    refused(lambda: paint_in(picture, mask, Painting(mask_rule=MOSTLY), 8), "covers no token by more than half", "mask_rule touched")
    refused(lambda: paint_in(picture, mask * 0.2, Painting(), 8), "too faint")


def test_the_second_of_two_pictures_is_named(painter, picture):
    refused(lambda: painter.generate(task="style", images=[picture, Image.new("RGB", (3, 3))]), "Picture 2 has 3x3 pixels")


def test_a_family_without_tasks_says_so():
    from migm_core.families import family_named

    family = family_named("maskgit")
    refused(lambda: family.task("edit"), "MaskGIT", "no tasks", "Leave it out")
    refused(lambda: family.understand(None, ["what"], (), None, {}), "does not answer questions")
    refused(lambda: family.choose(None, "what", ["a", "b"], (), None), "does not answer questions")
