"""Learning from the model's own runs: only what came out right is kept, in the states that the runs went through."""

import json

import numpy as np
import pytest
import torch
from small_model import CODES, small_config

from migm_core.models.lumina import Lumina
from migm_core.pipeline import DEMO, Pipeline
from migm_core.prompts import PromptEncoder
from migm_core.training.base import OWN_RUNS, train_base
from migm_core.training.own_runs import OwnRuns, possible_codes
from migm_core.training.patches import PatchCodebook
from migm_core.training.scenes import parse, placements
from migm_core.training.vocabulary import demo_text_tokenizer


@pytest.fixture(scope="module")
def runs():
    """Eight runs of the bundled model, and the share of them that came out right."""
    checkpoint = Pipeline.load(head=None, dtype="fp32").checkpoint
    runs = OwnRuns(PatchCodebook.load(DEMO / "codebook.safetensors"), checkpoint.prompts)
    return runs, runs.add(checkpoint.base, 2, 8, np.random.default_rng(0))


def test_every_picture_kept_shows_its_caption(runs):
    runs, right = runs
    assert len(runs.kept[2]) == round(8 * right) > 0
    for states in runs.kept[2]:
        possible = possible_codes(parse(states[0].caption), runs.codebook)
        assert any(torch.equal(states[0].codes, codes) for codes in possible)


def test_a_picture_comes_in_the_states_of_its_run(runs):
    for states in runs[0].kept[2]:
        assert [int(state.unknown.sum()) for state in states][::63] == [64, 1]
        assert all((later.unknown <= earlier.unknown).all() for earlier, later in zip(states, states[1:]))


def test_draws_are_repeatable_and_of_different_pictures(runs):
    runs, _ = runs
    first, again = (runs.draw(2, 3, np.random.default_rng(1)) for _ in range(2))
    assert all(a is b for a, b in zip(first, again))
    assert len({id(example.codes) for example in first}) == len(first) == 3
    assert runs.draw(3, 5, np.random.default_rng(1)) == []


def test_a_picture_that_is_wrong_anywhere_is_not_kept():
    codebook = PatchCodebook(PatchCodebook.fit(8, seed=0, scenes=100).centres[:CODES])
    config = small_config()
    torch.manual_seed(0)
    runs = OwnRuns(codebook, PromptEncoder.of(demo_text_tokenizer().backend_tokenizer, config.tokens))
    assert runs.add(Lumina(config, output_rows="all"), 1, 3, np.random.default_rng(0)) == 0
    assert runs.draw(1, 2, np.random.default_rng(0)) == []


def test_training_goes_on_with_random_scenes_where_no_run_is_right(tmp_path):
    codebook = PatchCodebook(PatchCodebook.fit(8, seed=0, scenes=100).centres[:CODES])
    train_base(tmp_path, codebook, steps=2, batch={1: 2}, config=small_config(), own_runs=True)
    notes = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert notes[0] == {"step": 0, **{f"own_right_{objects}": 0.0 for objects in OWN_RUNS}}
    assert notes[-1]["step"] == 2


def test_placements_are_all_the_ways_to_fulfil_a_caption():
    assert len(placements(parse("a small red star on a navy background"))) == 4
    assert placements(parse("a small red star left of a small blue star, both above a large red heart on a mint background")) == [
        [(1, 1), (5, 1), (0, 5)],
        [(1, 1), (5, 1), (5, 5)],
    ]
