"""Tries inside a real ComfyUI: the attack starts itself again in the host's own Python, on a base directory with models, and reads what came of it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace

from .trying import Outcome

TESTS = Path(__file__).resolve().parents[2]
LONGEST = 3600  # seconds of all tries

_enter: list[Callable[[str], ModuleType]] = []


def enter(base: Path) -> None:
    """Import the host, in its folder and its Python. Every try's child has it then."""
    sys.path[:0] = [str(TESTS / "host")]
    import inside

    _enter.append(inside.enter(base, "--cpu"))
    from server import PromptServer

    PromptServer.instance = SimpleNamespace(client_id=None, send_sync=lambda *message: None, send_progress_text=lambda *message: None)


def extension(path: str) -> ModuleType:
    """A module of the extension."""
    return _enter[0](path)


def newest() -> Path | None:
    """The newest host that tests/hosts.py finds."""
    sys.path[:0] = [str(TESTS / "host")]
    import hosts

    return next(iter(hosts.hosts()), None)


def outcomes(host: Path, kind: str, numbers: Iterable[int], seed: int, jobs: int = 1) -> list[Outcome]:
    """Make tries inside a host.

    Raises:
        RuntimeError: the attack there did not come to an end.
    """
    import hosts
    from small_model import edit_json

    with tempfile.TemporaryDirectory(prefix="attack-host-") as folder:
        base = hosts.make_base(hosts.Setting(host, False), Path(folder) / "base")
        edit_json(base / "models/migm/small/generation_config.json", trained={"sizes": [[32, 32], [48, 16], [16, 48]]})
        found, own = Path(folder) / "outcomes.json", hosts.python_of(host)
        command = [str(own) if own.exists() else sys.executable, str(TESTS / "tools/attack.py"), "--kind", kind, "--seed", str(seed), "--jobs", str(jobs), "--inside", str(base), "--out", str(found)]
        command += [part for number in numbers for part in ("--only", str(number))]
        done = subprocess.run(command, cwd=host, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True, timeout=LONGEST)
        if not found.exists():
            raise RuntimeError(f"The attack inside {host} did not come to an end: {done.stderr[-2000:]}")
        return [Outcome(**values) for values in json.loads(found.read_text())]
