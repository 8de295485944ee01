"""Learning from on-policy states: those of the model's own runs, as far as they can still come out right."""

import json

import numpy as np
import pytest
import torch
from small_model import CODES, small_config

from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.prompts import PromptEncoder
from migm_core.loading import DEMO
from migm_core.pipeline import Pipeline
from migm_core.worlds.shapes.on_policy import OnPolicyStates
from migm_core.worlds.shapes.patches import PatchCodebook
from migm_core.worlds.shapes.pictures import ScenePictures, consistent
from migm_core.worlds.shapes.scenes import parse
from migm_core.worlds.shapes.train_base import ON_POLICY_RUNS, train_base
from migm_core.worlds.shapes.vocabulary import demo_text_tokenizer


@pytest.fixture(scope="module")
def runs():
    """Eight runs of the bundled model, and the share of them that came out right."""
    checkpoint = Pipeline.load(head=None, dtype="fp32", device="cpu").checkpoint
    runs = OnPolicyStates(ScenePictures(PatchCodebook.load(DEMO / "codebook.safetensors")), checkpoint.prompts)
    return runs, runs.add(checkpoint.base, 2, 8, np.random.default_rng(0))


def test_a_run_comes_in_its_states_until_it_goes_wrong(runs):
    runs, right = runs
    assert len(runs.kept[2]) == 8
    to_the_end = [states for states in runs.kept[2] if int(states[-1].masked.sum()) == 1]
    assert len(to_the_end) >= round(8 * right) > 0
    for states in runs.kept[2]:
        assert states[0].masked.all()
        assert all((later.masked <= earlier.masked).all() for earlier, later in zip(states, states[1:]))


def test_every_state_says_what_it_may_become(runs):
    runs, _ = runs
    for states in runs.kept[2]:
        pictures = runs.pictures.of(parse(states[0].caption))
        for state in states:
            assert torch.equal(state.possible, consistent(pictures, state.codes, state.masked))
            assert len(state.possible)


def test_draws_are_repeatable_and_of_different_runs(runs):
    runs, _ = runs
    first, again = (runs.sample(2, 3, np.random.default_rng(1)) for _ in range(2))
    assert all(a is b for a, b in zip(first, again))
    assert len({example.caption for example in first}) == len(first) == 3
    assert runs.sample(3, 5, np.random.default_rng(1)) == []


def test_draws_favour_the_states_that_the_model_gets_wrong(runs):
    runs, _ = runs
    errors = np.concatenate(runs.errors[2])
    assert len(errors) == sum(len(states) for states in runs.kept[2]) and (errors >= 0).all()
    error_of = {id(state): error for states, run in zip(runs.kept[2], runs.errors[2]) for state, error in zip(states, run)}
    rng = np.random.default_rng(0)
    drawn = [error_of[id(state)] for _ in range(500) for state in runs.sample(2, 1, rng)]
    evenly = np.mean([run.mean() for run in runs.errors[2]])
    assert np.mean(drawn) == pytest.approx((evenly + (errors**2).sum() / errors.sum()) / 2, rel=0.2)


@pytest.fixture
def untrained():
    codebook = PatchCodebook(PatchCodebook.fit(8, seed=0, scenes=100).centres[:CODES])
    torch.manual_seed(0)
    return codebook, Lumina(small_config(), output_rows="all")


def test_a_run_that_goes_wrong_ends_there(untrained):
    codebook, model = untrained
    runs = OnPolicyStates(ScenePictures(codebook), PromptEncoder.of(demo_text_tokenizer(), model.config.tokens))
    assert runs.add(model, 1, 3, np.random.default_rng(0)) == 0
    for states in runs.kept[1]:
        assert states[0].masked.all() and int(states[-1].masked.sum()) > 1


def test_training_learns_from_runs_that_went_wrong_as_far_as_they_were_right(untrained, tmp_path):
    codebook, _ = untrained
    train_base(tmp_path, codebook, steps=2, batch={1: 2}, config=small_config(), on_policy=True)
    notes = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert notes[0] == {"step": 0, **{f"on_policy_accuracy_{objects}": 0.0 for objects in ON_POLICY_RUNS}}
    assert notes[-1]["step"] == 2
