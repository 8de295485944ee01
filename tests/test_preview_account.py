"""Previews take a share of the sampling time, whatever they cost, and none stays unfinished."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from nodes_without_host import room

PreviewAccount, SHARE = room("preview_account").PreviewAccount, room("preview_account").SHARE
STEPS = 64


def sample(account, seconds: list[float], cost: float) -> list[int]:
    """Runs of so many seconds each, one after the other, whose previews cost so much each; the steps that had one, from 1."""
    shown, last = [], STEPS * len(seconds)
    for step in range(1, last + 1):
        account.sampled += seconds[(step - 1) // STEPS] / STEPS
        if account.affords(last=step == last, shown=bool(shown)):
            account.pay(cost)
            shown.append(step)
    return shown


@pytest.mark.parametrize("cost", [0.0001, 0.01, 0.03, 0.2, 5.0])
@pytest.mark.parametrize("seconds", [[0.25], [3.0], [60.0], [18.5, 3.9, 3.9]], ids=str)
def test_previews_take_their_share_and_no_more(seconds, cost):
    account = PreviewAccount()
    runs = [sample(account, seconds, cost) for _ in range(900)]
    assert account.spent <= SHARE * account.sampled + cost
    assert account.spent > 0.9 * SHARE * account.sampled - cost or all(len(shown) >= STEPS - 1 for shown in runs[1:])
    assert all(not shown or shown[-1] == STEPS * len(seconds) for shown in runs), "an unfinished picture stayed"


def test_the_first_one_waits_a_second_or_for_the_end():
    assert sample(PreviewAccount(), [0.25], cost=0.01) == [STEPS]
    assert sample(PreviewAccount(), [32.0], cost=0.01)[0] == 2


def test_a_slow_first_one_does_not_silence_the_next():
    account = PreviewAccount()
    sample(account, [4.0], cost=1.0)
    assert account.spent <= 1.0  # of that run's last
    account = PreviewAccount()
    sample(account, [0.4], cost=0.07)
    later = [bool(sample(account, [0.4], cost=0.015)) for _ in range(20)]
    assert any(later[:5]) and sum(later) > 15


@pytest.fixture
def progress(monkeypatch):
    """A function that begins the progress of a number of steps on a CPU, whose previews are the word "picture"."""
    module = room("host.progress")
    monkeypatch.setattr(module, "LatentPreviewMethod", SimpleNamespace(NoPreviews="none", Auto="auto"))
    monkeypatch.setattr(module, "args", SimpleNamespace(preview_method="auto"))
    monkeypatch.setattr(module.RunProgress, "_preview", lambda self, canvas, account: account.pay(1.0) or "picture")

    def begin(steps: int):
        run = module.RunProgress(SimpleNamespace(device=SimpleNamespace(type="cpu"), previews={}), steps)
        run.bar = MagicMock()
        return run

    return begin


def after_steps(run, *unmasked: int) -> list[tuple]:
    """Steps that unmask so many tokens each: what the bar was told of each, done, of all and the preview."""
    run.bar.reset_mock()
    for count in unmasked:
        run.after_step(SimpleNamespace(unmasked=count, canvas=SimpleNamespace(codes=torch.zeros(1, 2, 2))))
    return [call.args for call in run.bar.update_absolute.call_args_list]


def test_a_run_that_needs_fewer_steps_than_asked_ends_with_a_full_bar_and_its_preview(progress):
    run = progress(8)
    run.start_part(masked=3, steps=8)
    assert after_steps(run, 1, 0, 2) == [(1, 8, None), (2, 8, None), (8, 8, "picture")]


def test_parts_that_need_fewer_steps_fill_their_shares_of_the_bar_and_the_last_shows_the_preview(progress):
    run = progress(12)
    run.start_part(masked=2, steps=4)
    assert after_steps(run, 1, 1) == [(1, 12, None), (4, 12, None)]
    run.start_part(masked=4, steps=4)
    assert after_steps(run, 1, 1, 1, 1) == [(5, 12, None), (6, 12, None), (7, 12, None), (8, 12, None)]
    run.start_part(masked=4, steps=4)
    assert after_steps(run, 4) == [(12, 12, "picture")]


@pytest.mark.parametrize("chosen, shown", [("none", False), ("auto", True)])
def test_no_preview_is_made_where_the_host_is_set_to_none(progress, monkeypatch, chosen, shown):
    monkeypatch.setattr(room("host.progress").args, "preview_method", chosen)
    run = progress(1)
    run.start_part(masked=4, steps=1)
    assert after_steps(run, 4) == [(1, 1, "picture" if shown else None)]
