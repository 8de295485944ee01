"""What happens while runs are under way: how often each, and, where it hangs on a run's own messages, the callback that sees them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from .results import ENDS

if TYPE_CHECKING:
    from .rounds import Job, Soak

DISTURBANCES = {  # how often each, of 100 rounds
    "none": 46,
    "page asks": 10,
    "cancel at a step": 6,
    "cancel at a moment": 10,
    "withdraw": 3,
    "unload": 4,
    "unload meanwhile": 4,
    "swap": 6,
    "swap meanwhile": 7,
    "leave": 4,
}


def _ask_as_a_page(soak: Soak, victim: Job, later: list[Job]) -> Callable:
    """Another page asks for plans, and what a node takes, while the victim runs."""

    def ask(kind: str, data: dict) -> None:
        if kind == "executing" and soak.rng.random() < 0.4:
            steps = soak.rng.randint(2, 64)
            budget = soak.rng.randint(2, steps)
            soak.clients[1 - victim.client].get(f"/migm/plan?model=soak/lumina&head=1&steps={steps}&budget={budget}&width=64&height=64")
            soak.counts["plans asked"] += 1
            if soak.rng.random() < 0.2:
                soak.clients[1 - victim.client].get("/object_info/MIGMLoadLumina")

    return ask


def _stop_at_a_moment(soak: Soak, victim: Job, later: list[Job]) -> Callable:
    """Stop whatever runs up to a quarter of a second after the victim has begun: the victim, or, where it ends sooner, the next one."""
    delay = soak.rng.random() * 0.25
    timers: list[threading.Timer] = []

    def start(kind: str, data: dict) -> None:
        if kind == "execution_start":
            timers.append(threading.Timer(delay, soak.clients[0].post, ("/interrupt",)))
            timers[-1].start()
        if kind in ENDS:
            timers[-1].join()

    return start


def _unload_meanwhile(soak: Soak, victim: Job, later: list[Job]) -> Callable:
    """Ask the host to unload at the victim's first step; it does so when it is next idle."""
    told: list[bool] = []

    def free(kind: str, data: dict) -> None:
        if kind in ("migm.step", "progress") and not told:
            told.append(True)
            soak.free()

    return free


def _swap_meanwhile(soak: Soak, victim: Job, later: list[Job]) -> Callable:
    """Swap a file that the victim uses: at its first step, when it has read the file and must not see the new one; or at a node, before or after."""
    name = soak.rng.choice(victim.request.uses)
    at_step = soak.rng.random() < 0.6
    node = soak.rng.choice(list(victim.request.graph))
    told: list[bool] = []

    def swap(kind: str, data: dict) -> None:
        if told or not (kind in ("migm.step", "progress") if at_step else kind == "executing" and data["node"] == node):
            return
        told.append(True)
        before = soak.files.now[name]
        soak.swap(name)
        if not at_step:
            victim.variants[name] = {before, soak.files.now[name]}
        for job in later:
            if name in job.variants:
                job.variants[name] = {soak.files.now[name]}

    return swap


HOOKS = {"page asks": _ask_as_a_page, "cancel at a moment": _stop_at_a_moment, "unload meanwhile": _unload_meanwhile, "swap meanwhile": _swap_meanwhile}
