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


@pytest.mark.parametrize("chosen, shown", [("none", False), ("auto", True)])
def test_no_preview_is_made_where_the_host_is_set_to_none(monkeypatch, chosen, shown):
    progress = room("host.progress")
    methods = SimpleNamespace(NoPreviews="none", Auto="auto")
    monkeypatch.setattr(progress, "LatentPreviewMethod", methods)
    monkeypatch.setattr(progress, "args", SimpleNamespace(preview_method=chosen))
    monkeypatch.setattr(progress.RunProgress, "_preview", lambda self, canvas, account: "picture")
    model = SimpleNamespace(device=SimpleNamespace(type="cpu"), previews={})
    run = progress.RunProgress(model, 1)
    run.bar = MagicMock()
    run.after_step(SimpleNamespace(canvas=SimpleNamespace(codes=torch.zeros(1, 2, 2))))
    run.bar.update_absolute.assert_called_once_with(1, 1, "picture" if shown else None)
