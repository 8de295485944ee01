"""Two processes do as one."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch.distributed.run import get_args_parser

from migm_core.cli.training import add_commands
from migm_core.command import Parser

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTED = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from migm_core.pipeline import Pipeline
from migm_core.training.distributed import joined_world
from training_runs import collect, learned, trajectories
source, target = Path(sys.argv[1]), Path(sys.argv[2])
with joined_world("cpu") as world:
    pipeline = Pipeline.load(source / "model", None, dtype="fp32", device="cpu")
    collect(pipeline, target / "trajectories", world=world)
    world.wait()
    head = learned(target / "head", trajectories(target / "trajectories"), pipeline.checkpoint.base, steps=5, world=world)
    torch.save(head.state_dict(), target / f"rank{{world.rank}}.pt")
"""


def run_by_two(script: Path, *arguments: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_no_option_is_mistaken_for_one_of_torchruns():
    """torchrun also reads the command's own options, and takes a beginning of one of its own for it."""
    theirs = [name for action in get_args_parser()._actions for name in action.option_strings]
    commands = Parser().add_subparsers()
    add_commands(commands)
    for parser in commands.choices.values():
        with suppress(ValueError):
            parser.parse_args([])  # so that it has all its options
    ours = {name for parser in commands.choices.values() for action in parser._actions for name in action.option_strings if name != "--help"}
    assert {"--init-from", "--prompt-file"} <= ours
    assert [(one, other) for one in ours if one.startswith("--") for other in theirs if other.startswith(one)] == []


def test_two_processes_share_collecting_and_train_one_head(recorded, tmp_path):
    folder, _ = recorded
    script = tmp_path / "job.py"
    script.write_text(DISTRIBUTED.format(paths=[str(ROOT), str(ROOT / "tests")]))
    run_by_two(script, folder, tmp_path)
    shards = sorted(path.name for path in (tmp_path / "trajectories").iterdir())
    assert shards == sorted(path.name for path in (folder / "trajectories").iterdir())
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
