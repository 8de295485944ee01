"""The one training loop: checkpoints and stops, the log, learning rates, averages, and what several processes share."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from migm_core.training import progress
from migm_core.training.distributed import World
from migm_core.training.learner import Learner, falling, stepped
from migm_core.training.run import Run

ROOT = Path(__file__).resolve().parents[1]


def learner_of(steps: int, ema: float | None = 0.99, world: World = World()) -> Learner:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return Learner(model, _error, [optimizer], lambda step: falling(step / steps, step, level=0.2, warm_up=5), ema=ema, world=world)


def _error(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def train(folder: Path, steps: int, at=lambda step: None, **options) -> Learner:
    with Run(folder, steps=steps, **options) as run:
        learner = learner_of(steps)
        for step in run.steps(learner=learner):
            loss = learner(torch.randn(8, 3, generator=torch.Generator().manual_seed(step)))
            learner.update(loss)
            run.count(seen=8, loss=loss)
            at(step)
    return learner


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_stopped_run_saves_and_ends_like_an_unstopped_one(tmp_path, capsys, number, error):
    whole = train(tmp_path / "whole", 20)
    before = signal.getsignal(number)
    with pytest.raises(error) as raised:
        train(tmp_path / "parts", 20, at=lambda step: step == 6 and os.kill(os.getpid(), number))
    assert signal.getsignal(number) is before
    if error is SystemExit:
        assert raised.value.code == 128 + number
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 7, "the step that was being done is not lost"
    assert "Stopped after step 7" in capsys.readouterr().err
    resumed = train(tmp_path / "parts", 20)
    assert same(whole.model, resumed.model) and same(whole.averaged, resumed.averaged)
    assert [row["step"] for row in log_of(tmp_path / "parts")] == [20]


def test_a_resumed_run_learns_at_the_rates_that_are_asked_for_now(tmp_path):
    def stopped(lr: float, steps: int, **options) -> dict:
        """A learner's rates when it begins, after the step that it does, and its other options."""
        with Run(tmp_path, steps=steps) as run:
            optimizer = torch.optim.AdamW(nn.Linear(3, 1).parameters(), lr=lr, **options)
            learner = Learner(nn.Linear(3, 1), _error, [optimizer], lambda step: stepped(step, lr=lr, min_lr=0.1 * lr, decay_steps=4, warm_up=2))
            found = []
            for _ in run.steps(learner=learner):
                found.append(optimizer.param_groups[0]["lr"])
                learner.update(learner(torch.ones(2, 3)))
            return {"rates": found, **optimizer.param_groups[0]}

    assert stopped(0.1, 3)["rates"] == pytest.approx([0.05, 0.1, 0.1])
    resumed = stopped(0.4, 6, weight_decay=0.3)
    assert resumed["rates"] == pytest.approx([0.4, 0.04, 0.04]), "the first one, too"
    assert resumed["weight_decay"] == 0.3 and resumed["initial_lr"] == 0.4
    assert stopped(0.2, 7)["rates"] == pytest.approx([0.02])


def test_a_resumed_run_of_seconds_learns_at_once_at_the_rate_of_its_progress(tmp_path):
    rates = []
    for seconds in (8, 16):
        now = iter(range(100))
        with Run(tmp_path, seconds=seconds, clock=lambda: next(now)) as run:  # noqa: B023
            optimizer = torch.optim.AdamW(nn.Linear(3, 1).parameters(), lr=0.1)
            learner = Learner(nn.Linear(3, 1), _error, [optimizer], lambda step: 1 - run.progress)  # noqa: B023
            for _ in run.steps(learner=learner):
                rates.append(optimizer.param_groups[0]["lr"])
                learner.update(learner(torch.ones(2, 3)))
                spent = run.spent
        if seconds == 8:
            first, before = len(rates), torch.load(tmp_path / "checkpoint.pt", weights_only=True)["spent"]
    assert spent > 8 and rates[0] == 0.1 and rates[first] == pytest.approx(0.1 * (1 - before / 16))


def test_an_ignored_signal_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train(tmp_path, 20, at=lambda step: signal.raise_signal(signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert log_of(tmp_path)[-1]["step"] == 20


def test_a_second_stop_has_its_usual_effect(tmp_path):
    def twice(step: int) -> None:
        for _ in range(2):  # in this thread, each answered before the next: signals that wait are one
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 20, at=twice)
    assert not (tmp_path / "checkpoint.pt").exists(), "the second one did not wait for the step"


def test_a_finished_folder_says_so_and_stays_as_it_is(tmp_path, capsys):
    train(tmp_path, 3)
    before = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
    assert " is finished" not in capsys.readouterr().err
    again = train(tmp_path, 3)
    assert f"{tmp_path} is finished: it has had its 3 steps." in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns == before and int(again.average.n_averaged) == 3
    assert int(train(tmp_path, 5).average.n_averaged) == 5


@pytest.mark.parametrize("how", ["old", "cut", "text", "model", "part", "order"])
def test_a_checkpoint_that_is_none_is_refused_by_name(tmp_path, how):
    train(tmp_path, 2)
    path = tmp_path / "checkpoint.pt"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-500])
    elif how == "text":
        path.write_text("nothing")
    else:
        state = torch.load(path, weights_only=True)
        if how == "old":
            del state["format"]
        elif how == "part":
            del state["learner"]
        elif how == "order":
            of_weight, of_bias = (state["learner"]["optimizer.0"]["state"][index] for index in (0, 1))
            of_weight["exp_avg"], of_bias["exp_avg"] = of_bias["exp_avg"], of_weight["exp_avg"]
        else:
            state["learner"]["model"] = {"weight": torch.zeros(7, 7)}
        torch.save(state, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="checkpoint.pt is no checkpoint of this training by this version") as error:
        train(tmp_path, 5)
    assert "\n" not in str(error.value) and path.read_bytes() == before


def test_two_runs_do_not_share_a_folder(tmp_path):
    with Run(tmp_path, steps=1), pytest.raises(ValueError, match="another run"), Run(tmp_path, steps=1):
        pass


def test_files_have_the_users_usual_permissions(tmp_path):
    train(tmp_path, 2)
    (tmp_path / "usual").write_text("")
    usual = (tmp_path / "usual").stat().st_mode
    assert {path.name: path.stat().st_mode for path in tmp_path.iterdir()} == dict.fromkeys(("checkpoint.pt", "log.jsonl", "lock", "usual"), usual)


def test_the_log_tells_means(tmp_path):
    with Run(tmp_path, steps=4, log_every=2) as run:
        for step in run.steps():
            run.count(a=float(step), b=(torch.tensor(2.0 * step), torch.tensor(2)))
            if step == 1:
                run.note(said="once")
    first, second, third = log_of(tmp_path)
    assert first == {"step": 1, "said": "once"}
    assert (second["step"], second["a"], second["b"]) == (2, 0.5, 0.5) and (third["step"], third["a"], third["b"]) == (4, 2.5, 2.5)


def test_a_run_of_seconds_counts_those_of_all_its_calls(tmp_path, capsys):
    with Run(tmp_path, seconds=0.2) as run:
        for _ in run.steps():
            run.count(seen=7)
            time.sleep(0.02)
    assert run.progress == 1 and 3 <= run.step <= 11 and run.seen == 7 * run.step
    with Run(tmp_path, seconds=0.4) as again:
        shares = [again.progress for _ in again.steps() if not time.sleep(0.02)]
    assert again.step > run.step and 0.5 <= shares[0] < 0.75 and again.spent >= 0.4
    with Run(tmp_path, seconds=100, until=0) as paused:
        assert not list(paused.steps())
    assert paused.progress < 1 and "is finished" not in capsys.readouterr().err
    with pytest.raises(ValueError, match="not both"):
        Run(tmp_path, seconds=1, steps=1)


def test_what_is_saved_on_the_way_is_told(tmp_path):
    seen = []
    with Run(tmp_path, steps=3, save_every=0) as run:
        for _ in run.steps(on_checkpoint=lambda: seen.append(torch.load(run.path, weights_only=True)["step"])):
            pass
    assert seen == [1, 2, 3]


def test_seconds_may_be_those_of_work(tmp_path):
    now = iter([100.0, *[100.0 + 0.5 * k for k in range(100)]])
    with Run(tmp_path, seconds=3, clock=lambda: next(now)) as run:
        steps = sum(1 for _ in run.steps())
    assert 2 <= steps <= 6 and run.progress == 1, "half a second passes whenever the clock is read"


def test_looks_take_a_twentieth_of_the_time_at_most(tmp_path):
    worked, looks = [0.0], []

    def look() -> None:
        worked[0] += 3
        looks.append(run.step)

    with Run(tmp_path, seconds=200, clock=lambda: worked[0], save_every=0) as run:
        for _ in run.steps(on_checkpoint=look):
            worked[0] += 1
    assert looks == [1, 57, 114, 171]


def test_learning_rates():
    assert falling(0.0, 0, level=0.4) == 0.01 and falling(0.3, 500, level=0.4) == 1 and falling(0.7, 500, level=0.4) == pytest.approx(0.5)
    assert falling(1.0, 500, level=0.4) == 0
    published = {"lr": 1e-3, "min_lr": 1e-4, "decay_steps": 1000}
    assert stepped(0, **published) == 0.02 and stepped(999, **published) == 1 and stepped(1000, **published) == pytest.approx(0.1)


def test_the_average_begins_as_the_model_and_follows_it_slower(tmp_path):
    learner = learner_of(20, ema=0.9)
    start = learner.model.weight.detach().clone()
    learner.update(learner(torch.ones(2, 3)))
    assert torch.equal(learner.averaged.weight, learner.model.weight) and not torch.equal(learner.model.weight, start)
    before, now = learner.averaged.weight.clone(), None
    learner.update(learner(torch.ones(2, 3)))
    now = learner.model.weight
    assert torch.allclose(learner.averaged.weight, before.lerp(now, 1 - 2 / 11))
    assert not any(p.requires_grad for p in learner.averaged.parameters())
    assert learner_of(20, ema=None).averaged is not None


def test_without_a_terminal_lines_tell_the_time_that_is_left(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY", 0)
    with progress.Progress("head", 100, "step", 20) as bar:
        time.sleep(0.01)
        bar.update(60, "loss 0.5")
    line = capsys.readouterr().err
    assert line.startswith("migm: head: 60 of 100 steps, ") and " left, loss 0.5" in line and "\r" not in line
    with progress.Progress("head", 100, "step", quiet=True) as bar:
        bar.update(60)
    assert capsys.readouterr().err == ""


def test_durations_and_sizes_in_words():
    assert [progress.duration(s) for s in (12, 600, 9000, 300000)] == ["12 s", "10 min", "2.5 h", "3.5 days"]
    assert [progress.size(n) for n in (12, 2100, 4.4e9)] == ["12 bytes", "2.1 kB", "4.4 GB"]


BY_TWO = """
import os, signal, sys
sys.path[:0] = {paths!r}
import torch
from migm_core.training.distributed import joined_world
from migm_core.training.run import Run
from test_training_loop import learner_of
torch.set_num_threads(1)
with joined_world("cpu") as world, Run(sys.argv[1], steps=6, world=world) as run:
    learner = learner_of(6, world=world)
    stops = sys.argv[2] == "stop"
    try:
        for step in run.steps(learner=learner):
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
            learner.update(learner(x.chunk(2)[world.rank]))
            if stops and step == 2 and world.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
    except BaseException as error:
        assert stops, error
    torch.save((run.step, learner.model.state_dict()), f"{{sys.argv[1]}}/{{sys.argv[2]}}{{world.rank}}.pt")
"""


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """What two processes make of a run: one that goes through, and one of which the second process is asked to stop."""
    folder = tmp_path_factory.mktemp("by-two")
    (folder / "job.py").write_text(BY_TWO.format(paths=[str(ROOT), str(ROOT / "tests")]))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(folder / "job.py")]
    for way in ("whole", "stop"):
        done = subprocess.run([*command, str(folder / way), way], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
    return {way: [torch.load(folder / way / f"{way}{rank}.pt", weights_only=True) for rank in range(2)] for way in ("whole", "stop")}


def test_two_processes_learn_as_one_does_from_both_their_batches(by_two, tmp_path):
    (_, first), (_, second) = by_two["whole"]
    alone = train(tmp_path, 6).model.state_dict()
    for name in alone:
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], alone[name], rtol=1e-5, atol=1e-6)


def test_all_processes_stop_where_one_is_asked_to(by_two):
    assert [step for step, _ in by_two["stop"]] == [3, 3]
