"""What the base model learns from: all that a partly known picture may become, with its exact probabilities."""

import numpy as np
import pytest
import torch

from migm_core.loading import DEMO
from migm_core.worlds.shapes.examples import Example, probabilities, random_examples
from migm_core.worlds.shapes.patches import PatchCodebook
from migm_core.worlds.shapes.pictures import ScenePictures, consistent
from migm_core.worlds.shapes.scenes import parse, placements, random_scene, render


@pytest.fixture(scope="module")
def pictures():
    return ScenePictures(PatchCodebook.load(DEMO / "codebook.safetensors"))


def test_placements_are_all_the_ways_to_fulfil_a_caption():
    assert len(placements(parse("a small red star on a navy background"))) == 4
    assert placements(parse("a small red star left of a small blue star, both above a large red heart on a mint background")) == [
        [(1, 1), (5, 1), (0, 5)],
        [(1, 1), (5, 1), (5, 5)],
    ]


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_pictures_in_codes_are_the_codes_of_rendered_pictures(pictures, objects):
    scene = random_scene(np.random.default_rng(objects), objects)
    images = np.stack([render(scene, spots) for spots in placements(scene)])
    assert torch.equal(pictures.of(scene), pictures.codebook.codes(torch.from_numpy(images).permute(0, 3, 1, 2)))


def test_a_known_cell_rules_out_the_pictures_that_differ_there(pictures):
    possible = pictures.of(parse("a small red star on a navy background"))
    masked = torch.ones(8, 8, dtype=torch.bool)
    assert len(consistent(possible, possible[0], masked)) == 4
    masked[1, 1] = False  # in the first quarter, where the first picture has the star
    assert torch.equal(consistent(possible, possible[0], masked), possible[:1])
    assert len(consistent(possible, possible[1], masked)) == 3


@pytest.mark.parametrize("objects", [0, 1, 2, 3])
def test_an_example_can_become_what_it_was_made_from(pictures, objects):
    for example in random_examples(objects, 8, pictures, np.random.default_rng(objects)):
        assert (example.possible == example.codes).flatten(1).all(1).any()
        assert torch.equal(example.possible, consistent(example.possible, example.codes, example.masked))
        assert bool(example.caption) == bool(objects)


def test_probabilities_count_the_pictures_that_agree():
    possible = torch.tensor([[[0, 1], [2, 2]], [[0, 1], [2, 3]], [[0, 3], [2, 3]]])
    masked = torch.tensor([[False, True], [False, True]])
    expected = torch.tensor([[0, 2 / 3, 0, 1 / 3], [0, 0, 1 / 3, 2 / 3]])
    torch.testing.assert_close(probabilities(Example("", possible[0], masked, possible), 4), expected)
