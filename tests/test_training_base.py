"""The base's training to predict masked tokens: it learns, is interrupted, and is shared by two processes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_model import small_config
from test_training_processes import ROOT, run_by_two
from training_runs import same

from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.training.distributed import World
from migm_core.training.masked import losses, random_masks, train_masked
from migm_core.training.muon import orthogonalise


def batch(seed: int) -> tuple[torch.Tensor, ...]:
    """Three pictures of one code each, which the prompt names; and what is masked of them."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(1, 5, (3, 2), generator=generator)
    codes = prompts[:, :1, None].repeat(1, 4, 4)
    return prompts, codes, random_masks(codes.shape, generator)


def train(folder: Path, steps: int, *, stop_at: int | None = None, world: World = World()) -> Lumina:
    """Train a tiny base by a clock that counts steps."""
    torch.manual_seed(0)
    model, done = Lumina(small_config(), output_rows="all"), [0]

    def lessons(step: int) -> Iterator[tuple[torch.Tensor, ...]]:
        while True:
            prompts, codes, masked = batch(step * world.size + world.rank)
            if step == stop_at:
                os.kill(os.getpid(), signal.SIGINT)
            done[0], step = done[0] + 1, step + 1
            yield prompts, codes, torch.ones(codes.shape), masked

    return train_masked(folder, model, lessons, seconds=steps, clock=lambda: float(done[0]), warm_up=5, ema=0.5, world=world)


def test_an_interrupted_training_ends_like_an_uninterrupted_one(tmp_path):
    whole = train(tmp_path / "whole", 4)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", 4, stop_at=1)
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 2
    assert same(whole, train(tmp_path / "parts", 4))


def test_it_learns_what_prompts_say(tmp_path):
    untrained, trained = (train(tmp_path / str(steps), steps) for steps in (1, 60))
    prompts, codes, masked = batch(10**6)
    before, after = (losses(model, prompts, codes, masked)[masked].mean().item() for model in (untrained, trained))
    assert after < before / 2


BY_TWO = """
import sys
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from test_training_base import train
from migm_core.training.distributed import joined_world
with joined_world("cpu") as world:
    torch.save(train(sys.argv[1], 3, world=world).state_dict(), f"{{sys.argv[1]}}/rank{{world.rank}}.pt")
"""


def test_two_processes_train_one_base_on_pictures_of_their_own(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(BY_TWO.format(paths=[str(ROOT), str(ROOT / "tests")]))
    run_by_two(script, tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    alone = train(tmp_path / "alone", 3).state_dict()
    assert not all(torch.equal(first[name], alone[name]) for name in first)


def test_muon_brings_singular_values_near_one():
    matrices = torch.randn(3, 24, 8, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert 0.6 < values.min() and values.max() < 1.3
