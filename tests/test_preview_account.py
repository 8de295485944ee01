"""Previews take a share of the sampling time, whatever they cost, and none stays unfinished."""

import pytest
from nodes_without_host import room

PreviewAccount, SHARE = room("preview_account").PreviewAccount, room("preview_account").SHARE
STEPS = 64


def sample(account, seconds: float, cost: float) -> list[int]:
    """A run of so many seconds whose previews cost so much each; the steps that had one, from 1."""
    shown = []
    for step in range(1, STEPS + 1):
        account.sampled += seconds / STEPS
        if account.affords(seconds * step / STEPS, last=step == STEPS, shown=bool(shown)):
            account.pay(cost)
            shown.append(step)
    return shown


@pytest.mark.parametrize("cost", [0.0001, 0.01, 0.03, 0.2, 5.0])
@pytest.mark.parametrize("seconds", [0.25, 3.0, 60.0])
def test_previews_take_their_share_and_no_more(seconds, cost):
    account = PreviewAccount()
    runs = [sample(account, seconds, cost) for _ in range(400)]
    assert account.spent <= SHARE * account.sampled + cost
    assert account.spent > 0.9 * SHARE * account.sampled - cost or all(len(shown) >= STEPS - 1 for shown in runs[1:])
    assert all(not shown or shown[-1] == STEPS for shown in runs), "an unfinished picture stayed"


def test_the_first_one_waits_a_second_or_for_the_end():
    assert sample(PreviewAccount(), seconds=0.25, cost=0.01) == [STEPS]
    assert sample(PreviewAccount(), seconds=32.0, cost=0.01)[0] == 2
