"""From a MaskGIT's files to images: several classes, masks, and requests that are none."""

import pytest
import torch
from maskgit_folder import HEAD, published

from migm_core.canvas import Canvas
from migm_core.pipeline import Pipeline
from migm_core.sampling.methods import shortcut


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return Pipeline.load(published(tmp_path_factory.mktemp("maskgit")), HEAD, dtype="fp32", device="cpu")


def test_a_probe_compares_under_the_guidance_of_its_step(pipeline, monkeypatch):
    """Guidance grows over a run: far less of it counts at the first steps than at the last."""
    told, compare = [], shortcut.compare
    monkeypatch.setattr(shortcut, "compare", lambda base, true, guesses, positions, weights: told.append(weights) or compare(base, true, guesses, positions, weights))
    result = pipeline.generate(3, steps=9, budget=4, guidance_scale=2.0, probe=True)
    ramps = [step / 8 for step in result.full_steps[1:]]
    assert len(result.probed) == len(ramps) == 3
    expected = [[pytest.approx(1 + 2 * ramp), pytest.approx(-2 * ramp)] for ramp in ramps]
    assert told == [weights for weights in expected for _ in range(2)], "of the head, and of no motion"


def test_several_classes_at_once_are_their_single_runs(pipeline):
    one_by_one = [pipeline.generate(number, seed=seed).canvas.codes for number, seed in ((3, 5), (0, 6), (7, 7))]
    for classes in ("3, 0, 7", [3, "0", 7]):
        result = pipeline.generate(classes, seed=5)
        assert len(result.images) == 3 and result.images[0].size == (24, 24)
        assert torch.equal(result.canvas.codes, torch.cat(one_by_one))
    assert torch.equal(pipeline.generate(3, seed=5, batch=2).canvas.codes[:1], one_by_one[0])


def test_images_with_different_masks_are_sampled_one_by_one(pipeline):
    given = pipeline.generate([1, 2], seed=0).canvas
    masked = torch.zeros(2, 6, 6, dtype=torch.bool)
    masked[0, :3], masked[1, 1:] = True, True
    result = pipeline.generate([1, 2], seed=0, canvas=Canvas(given.codes, masked))
    assert torch.equal(result.canvas.codes[~masked], given.codes[~masked])
    for image in range(2):
        alone = pipeline.generate(image + 1, seed=image, canvas=Canvas(given.codes[image : image + 1], masked[image : image + 1]))
        assert torch.equal(alone.canvas.codes[0], result.canvas.codes[image])


def test_codes_of_another_codebook_are_refused(pipeline):
    canvas = Canvas(torch.full((1, 6, 6), 24), torch.zeros(1, 6, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="holds the code 24, but this model's codebook has 24 codes"):
        pipeline.generate(1, canvas=canvas)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prompt": 10}, "The class 10 does not exist: this model has the classes 0 to 9"),
        ({"prompt": "goldfish"}, "this model's classes have no names"),
        ({"prompt": 1.5}, "The class 1.5 is float"),
        ({"prompt": ""}, "No class is given"),
        ({"prompt": 1, "negative": "rain"}, "leave the negative prompt out"),
        ({"prompt": 1, "width": 48, "height": 48}, "12x12 tokens, but this MaskGIT model samples 6x6"),
        ({"prompt": 1, "steps": 1}, "steps is 1"),
        ({"prompt": 1, "steps": 5, "budget": 6}, "budget is 6, but must be from 2 to the number of steps, 5"),
        ({"prompt": 1, "temperature": 1.0}, "Did you mean 'choice_temperature'"),
        ({"prompt": 1, "schedule": "sine"}, "schedule is 'sine'"),
    ],
)
def test_senseless_requests_are_refused(pipeline, asked, message):
    with pytest.raises(ValueError, match=message):
        pipeline.generate(**asked)
