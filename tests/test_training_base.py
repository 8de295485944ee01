"""The base and the tokenizer of a drawn world: trained, interrupted, gone on from a start."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from small_model import CODES, small_config
from training_runs import BATCH, same

from migm_core.checkpoints import load_checkpoint
from migm_core.cli import main
from migm_core.loading import DEMO
from migm_core.pipeline import Pipeline
from migm_core.training.muon import orthogonalise
from migm_core.worlds.shapes.patches import PatchCodebook, scene_images
from migm_core.worlds.shapes.train_base import train_base


def test_an_interrupted_run_ends_like_an_uninterrupted_one(codebook, tmp_path, monkeypatch):
    from migm_core.worlds.shapes import train_base as module

    whole = train_base(tmp_path / "whole", codebook, steps=4, batch=BATCH, config=small_config())
    count = module.Run.count

    def stop_after_two(self, **values) -> None:
        count(self, **values)
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(module.Run, "count", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        train_base(tmp_path / "parts", codebook, steps=4, batch=BATCH, config=small_config())
    monkeypatch.undo()
    resumed = train_base(tmp_path / "parts", codebook, steps=4, batch=BATCH, config=small_config())
    assert same(whole, resumed)


def test_training_lowers_the_loss_and_logs_it(codebook, tmp_path):
    train_base(tmp_path, codebook, steps=100, batch={1: 4}, config=small_config())
    first, last = (json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert last < first - 0.2


def test_a_codebook_finds_its_own_centres(codebook):
    cells = codebook.centres.view(-1, 3, 8, 8)
    assert torch.equal(codebook.codes(cells).flatten(), torch.arange(CODES))


def test_every_cell_of_a_scene_has_a_code_that_looks_like_it():
    codebook = PatchCodebook.fit(8, seed=0, scenes=1000)
    images = scene_images(np.random.default_rng(1), 50, "test")
    drawn = codebook.centres[codebook.codes(images)].view(50, 8, 8, 3, 8, 8).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    assert (drawn - images).abs().max() < 0.05


def test_training_goes_on_from_a_start(codebook, trained):
    folder, _ = trained
    start = load_checkpoint(folder / "checkpoint", dtype="fp32", output_rows="all").base
    continued = train_base(folder / "continued", codebook, steps=1, lr=1e-9, batch=BATCH, start=start)
    assert torch.allclose(continued.ff_out.weight, start.ff_out.weight, atol=1e-6)


def test_muon_brings_singular_values_near_one():
    matrices = torch.randn(3, 24, 8, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert 0.6 < values.min() and values.max() < 1.3


def test_a_base_needs_an_image_tokenizer_or_a_start(tmp_path, capsys):
    assert main(["train-base", str(tmp_path)]) == 2
    assert f"Run `migm train-tokenizer {tmp_path}` first, or give --init-from." in capsys.readouterr().err


def test_the_bundled_model_is_trained_on_with_its_own_image_tokenizer(tmp_path):
    assert main(["train-base", str(tmp_path), "--init-from", "demo", "--steps", "1"]) == 0
    made = Pipeline.load(tmp_path / "checkpoint", None, dtype="fp32").checkpoint
    bundled = Pipeline.load(head=None, dtype="fp32").checkpoint
    assert same(made.image_tokenizer, bundled.image_tokenizer)
    assert not same(made.base, bundled.base)
    assert torch.equal(PatchCodebook.load(tmp_path / "checkpoint" / "codebook.safetensors").centres, PatchCodebook.load(DEMO / "codebook.safetensors").centres)
