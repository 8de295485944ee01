"""Hostile tries: what damaged files, foreign arguments, full disks and signals make of the engine, counted by kind.

    trying.py      one try: a child forked from a parent that has torch in it, its limits, its verdict
    room.py        a folder of a tiny model for one try, and what is done to its files
    json_files.py  weights.py  files.py  text_tokenizers.py  maskgit.py  arguments.py  tasks.py (with pictures.py)  commands.py  task_commands.py
    processes.py  repeats.py  nodes.py (with hosted.py)
                   the kinds: each a function from random numbers and a room to an ``Attempt``

Everything that a try does follows from its kind, its number and the seed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from . import arguments, commands, files, json_files, maskgit, nodes, processes, repeats, task_commands, tasks, text_tokenizers, weights


@dataclass(frozen=True)
class Kind:
    """Attributes: plan: makes an ``Attempt`` from random numbers and a room; tries: how many, where nobody says; works: needs a working folder of training;
    hosted: runs inside a real ComfyUI, see ``hosted``."""

    plan: Callable
    tries: int
    works: bool = False
    hosted: bool = False


KINDS = {
    "json": Kind(json_files.plan, 220),
    "weights": Kind(weights.plan, 220),
    "files": Kind(files.plan, 200),
    "tokenizers": Kind(text_tokenizers.plan, 130),
    "maskgit": Kind(maskgit.plan, 120),
    "arguments": Kind(arguments.plan, 240),
    "tasks": Kind(tasks.plan, 200),
    "commands": Kind(commands.plan, 160),
    "task commands": Kind(task_commands.plan, 200),
    "training": Kind(commands.plan_training, 110, works=True),
    "signals": Kind(processes.plan_signals, 16),
    "streams": Kind(processes.plan_streams, 16),
    "repeats": Kind(repeats.plan, 28),
    "nodes": Kind(nodes.plan, 200, hosted=True),
}
