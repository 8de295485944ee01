"""The synthetic domain means what its captions say, and the judge sees what was drawn and nothing kinder."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from migm_core.worlds.shapes.judge import judge
from migm_core.worlds.shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    PIXELS,
    RELATIONS,
    SHAPES,
    SIZES,
    TOKEN_PIXELS,
    Scene,
    SceneObject,
    parse,
    random_placement,
    random_scene,
    render,
    three,
)

MIRRORED = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

# A scene and where it lies, for the tests that spoil it: cells (x, y) of the top left corners.
SCENE = parse("a large red heart left of a small yellow star, both above a large blue circle on a cream background")
SPOTS = [(0, 0), (5, 1), (2, 5)]
RED, YELLOW, BLUE = SCENE.objects


def random_scenes(count: int, seed: int = 0) -> list[tuple[Scene, np.ndarray]]:
    """Scenes of one, two and three objects in turn, with their images."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, 1 + i % 3) for i in range(count)]
    return [(scene, render(scene, random_placement(rng, scene))) for scene in scenes]


def with_thing(index: int, **words: str) -> Scene:
    """SCENE with some words of one object changed."""
    objects = list(SCENE.objects)
    objects[index] = replace(objects[index], **words)
    return replace(SCENE, objects=tuple(objects))


def blurred(image: np.ndarray, radius: float) -> np.ndarray:
    picture = Image.fromarray((image * 255).round().astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)))


# Captions and splits


def test_a_caption_parses_back_to_its_scene():
    for scene, _ in random_scenes(300):
        assert parse(scene.caption) == scene


def test_parsing_forgives_case_spaces_articles_and_the_comma():
    assert parse("  The large red heart left of the small yellow star on a Cream background ") == Scene(
        SCENE.objects[:2], "cream", ((0, "left of", 1),)
    )
    assert parse(SCENE.caption.replace(",", "")) == SCENE


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a photo of a cat",
        "a large pink heart on a cream background",
        "a large red heart",
        "a large red heart beside a small yellow star on a cream background",
        SCENE.caption + " at night",
    ],
)
def test_a_foreign_caption_is_refused_with_an_example_that_parses(caption):
    with pytest.raises(ValueError, match="not a caption of the synthetic domain") as refusal:
        parse(caption)
    example = str(refusal.value).split("An example of one: '")[1].split("'")[0]
    assert parse(example)


def test_every_caption_has_one_split_and_most_are_for_training():
    splits = [scene.split for scene, _ in random_scenes(600)]
    assert set(splits) == {"train", "dev", "test"}
    assert 0.7 < splits.count("train") / len(splits) < 0.9
    rng = np.random.default_rng(0)
    for split in ("train", "dev", "test"):
        assert all(random_scene(rng, count, split).split == split for count in (1, 2, 3))


def test_mirrored_captions_fall_in_one_split():
    for scene, _ in random_scenes(300):
        if not scene.relations:
            continue
        _, relation, _ = scene.relations[0]
        swapped = (scene.objects[1], scene.objects[0], *scene.objects[2:])
        mirror = replace(scene, objects=swapped, relations=((0, MIRRORED[relation], 1), *scene.relations[1:]))
        assert mirror.canonical == scene.canonical
        assert mirror.split == scene.split


# Placing and drawing


def test_placement_keeps_every_relation_with_a_free_token_between():
    rng = np.random.default_rng(0)
    for scene, _ in random_scenes(300):
        spots = random_placement(rng, scene)
        sides = [SIZES[item.size] for item in scene.objects]
        assert all(0 <= at and at + side <= PIXELS // TOKEN_PIXELS for spot, side in zip(spots, sides) for at in spot)
        for first, relation, second in scene.relations:
            axis = 0 if RELATIONS[relation][0] else 1
            low, high = (first, second) if sum(RELATIONS[relation]) < 0 else (second, first)
            assert spots[low][axis] + sides[low] + 1 <= spots[high][axis]


def test_rendering_is_deterministic_and_in_range():
    first, second = random_scenes(30, seed=3), random_scenes(30, seed=3)
    for (scene, image), (_, again) in zip(first, second):
        assert image.shape == (PIXELS, PIXELS, 3) and image.dtype == np.float32
        assert 0 <= image.min() and image.max() <= 1
        assert np.array_equal(image, again)
        assert np.allclose(np.median(image, (0, 1)), BACKGROUNDS[scene.background])


# What the judge accepts


def test_rendered_scenes_are_right():
    for scene, image in random_scenes(300):
        verdict = judge(image, scene)
        assert verdict.right and not verdict.faults, (scene.caption, verdict.faults)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_every_shape_and_size_is_read_on_every_background(background, colour):
    for shape in SHAPES:
        for size in SIZES:
            scene = Scene((SceneObject(size, colour, shape),), background)
            assert judge(render(scene, [(5, 2)]), scene).right, scene.caption


def test_readings_say_what_lies_where():
    verdict = judge(render(SCENE, SPOTS), SCENE)
    centres = [tuple(TOKEN_PIXELS * (at + SIZES[item.size] / 2) for at in spot) for item, spot in zip(SCENE.objects, SPOTS)]
    assert verdict.background == "cream"
    assert {(r.item, r.centre) for r in verdict.readings} == set(zip(SCENE.objects, centres))
    assert all(reading.flaw < 0.001 for reading in verdict.readings)


def test_floats_bytes_and_pil_images_are_judged_alike():
    image = render(SCENE, SPOTS)
    as_bytes = (image * 255).round().astype(np.uint8)
    for same in (image, image.astype(np.float64), as_bytes, Image.fromarray(as_bytes)):
        assert judge(same, SCENE).right


def test_mild_blur_is_accepted():
    for scene, image in random_scenes(60):
        assert judge(blurred(image, 0.8), scene).right, scene.caption


def test_mild_noise_is_accepted():
    rng = np.random.default_rng(0)
    for scene, image in random_scenes(60):
        noisy = np.clip(image + rng.normal(0, 0.03, image.shape), 0, 1)  # 30 dB
        assert judge(noisy, scene).right, scene.caption


def test_objects_off_the_grid_are_read():
    image = np.roll(render(SCENE, [(1, 0), (5, 1), (2, 4)]), (3, 2), (0, 1))
    assert judge(image, SCENE).right


def test_specks_do_not_count():
    image = render(SCENE, SPOTS)
    image[30:32, 60:62] = 0
    assert judge(image, SCENE).right


# What the judge refuses


@pytest.mark.parametrize(
    "told, fault",
    [
        (with_thing(0, colour="purple"), "expected a large purple heart, found a large red heart"),
        (with_thing(2, shape="square"), "expected a large blue square, found"),
        (with_thing(1, size="large"), "expected a large yellow star, found"),
        (replace(SCENE, background="mint"), "expected a mint background, found cream"),
        (replace(SCENE, objects=SCENE.objects[:2], relations=SCENE.relations[:1]), "3 objects instead of 2"),
        (three(RED, "right of", YELLOW, "above", BLUE, "cream"), "not right of a small yellow star"),
        (three(RED, "left of", YELLOW, "below", BLUE, "cream"), "not below a large blue circle"),
        (replace(SCENE, objects=(RED, BLUE, YELLOW)), "not above a small yellow star"),
    ],
    ids=["colour", "shape", "size", "background", "extra", "relation", "relation to the third", "swapped objects"],
)
def test_an_image_of_another_scene_is_wrong(told, fault):
    verdict = judge(render(SCENE, SPOTS), told)
    assert not verdict.right
    assert fault in "; ".join(verdict.faults)


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("word, options", [("size", SIZES), ("colour", COLOURS), ("shape", SHAPES)])
def test_each_other_word_for_each_object_is_wrong(index, word, options):
    image = render(SCENE, SPOTS)
    for option in options:
        told = with_thing(index, **{word: option})
        assert judge(image, told).right == (told == SCENE)


def test_objects_side_by_side_with_their_tops_in_line_are_not_above_one_another():
    small, large = SceneObject("small", "red", "star"), SceneObject("large", "blue", "circle")
    beside = Scene((small, large), "navy", ((0, "left of", 1),))
    image = render(beside, [(1, 2), (4, 2)])
    assert judge(image, beside).right
    assert not judge(image, replace(beside, relations=((0, "above", 1),))).right


def test_each_missing_object_is_missed():
    for gone in range(3):
        image = render(SCENE, SPOTS)
        x, y = (TOKEN_PIXELS * at for at in SPOTS[gone])
        image[y : y + 24, x : x + 24] = BACKGROUNDS["cream"]
        verdict = judge(image, SCENE)
        assert "2 objects instead of 3" in verdict.faults
        assert any(fault.startswith(f"expected {SCENE.objects[gone]}") for fault in verdict.faults)


def test_an_empty_picture_shows_nothing():
    verdict = judge(np.full((PIXELS, PIXELS, 3), BACKGROUNDS["cream"]), SCENE)
    assert "0 objects instead of 3" in verdict.faults
    assert "expected a large red heart, found nothing" in verdict.faults


def test_a_stray_blob_counts_as_an_object():
    image = render(SCENE, SPOTS)
    image[50:54, 58:62] = COLOURS["green"]
    verdict = judge(image, SCENE)
    assert verdict.faults == ("4 objects instead of 3",)


def test_a_background_of_no_name_is_wrong():
    image = np.clip(render(SCENE, SPOTS) - 0.1, 0, 1)
    verdict = judge(image, SCENE)
    assert verdict.background is None
    assert "expected a cream background, found another colour" in verdict.faults


def test_a_background_in_two_colours_is_wrong():
    scene = Scene(SCENE.objects[:1], "cream")
    image = render(scene, [(0, 0)])
    image[:, 40:] = BACKGROUNDS["mint"]
    assert not judge(image, scene).right


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_half_drawn_object_is_refused(side, background):
    for size, colour in (("small", "purple"), ("large", "yellow"), ("large", "green")):
        for shape in SHAPES:
            scene = Scene((SceneObject(size, colour, shape),), background)
            image = render(scene, [(2, 2)])
            half, end = 16 + SIZES[size] * TOKEN_PIXELS // 2, 16 + SIZES[size] * TOKEN_PIXELS
            span = slice(16, half) if side in ("left", "top") else slice(half, end)
            where = (slice(None), span) if side in ("left", "right") else (span, slice(None))
            image[where] = BACKGROUNDS[background]
            assert not judge(image, scene).right, (scene.caption, side)


@pytest.mark.parametrize("radius", [4, 5])
def test_a_smeared_object_is_refused(radius):
    for scene, image in random_scenes(60):
        assert not judge(blurred(image, radius), scene).right, scene.caption


@pytest.mark.parametrize(
    "other",
    [SceneObject("large", "purple", "heart"), SceneObject("large", "red", "circle"), SceneObject("large", "blue", "square")],
    ids=["colour", "shape", "both"],
)
def test_an_object_half_way_between_two_is_neither(other):
    scene = Scene((SceneObject("large", "red", "heart"),), "cream")
    told = Scene((other,), "cream")
    between = (render(scene, [(2, 2)]) + render(told, [(2, 2)])) / 2
    assert not judge(between, scene).right
    assert not judge(between, told).right


def test_an_object_with_one_foreign_cell_is_refused():
    # What a wrong code of an image tokenizer looks like.
    scene = Scene((SceneObject("large", "red", "square"),), "cream")
    image = render(scene, [(2, 2)])
    image[16:24, 16:24] = render(Scene((SceneObject("large", "green", "square"),), "cream"), [(2, 2)])[16:24, 16:24]
    verdict = judge(image, scene)
    assert "something unclear" in verdict.faults[0]


# Two of a kind


def test_identical_objects_are_matched_either_way():
    star = SceneObject("small", "red", "star")
    for relation in RELATIONS:
        scene = Scene((star, star), "cream", ((0, relation, 1),))
        spots = [(1, 1), (5, 1)] if RELATIONS[relation][0] else [(1, 1), (1, 5)]
        assert judge(render(scene, spots), scene).right


def test_identical_objects_must_still_fulfil_the_other_relations():
    star, circle = SceneObject("small", "red", "star"), SceneObject("large", "blue", "circle")
    scene = three(star, "left of", circle, "above", star, "navy")
    spots = [(2, 1), (4, 0), (3, 6)]
    assert judge(render(scene, spots), scene).right
    upside_down = three(star, "left of", circle, "below", star, "navy")
    assert not judge(render(scene, spots), upside_down).right


def test_one_of_two_identical_objects_is_not_enough():
    star = SceneObject("small", "red", "star")
    scene = Scene((star, star), "cream", ((0, "above", 1),))
    verdict = judge(render(Scene((star,), "cream"), [(3, 3)]), scene)
    assert "1 object instead of 2" in verdict.faults
    assert sum(fault.startswith("expected a small red star") for fault in verdict.faults) == 1


# What it cannot judge


@pytest.mark.parametrize(
    "image, complaint",
    [
        (np.zeros((3, 64, 64), np.float32), "shape"),
        (np.zeros((32, 32, 3), np.uint8), "shape"),
        (np.full((64, 64, 3), 200.0), "span"),
        (np.full((64, 64, 3), np.nan), "span"),
    ],
    ids=["channels first", "size", "range", "nan"],
)
def test_an_image_of_another_kind_is_an_error(image, complaint):
    with pytest.raises(ValueError, match=complaint):
        judge(image, SCENE)
