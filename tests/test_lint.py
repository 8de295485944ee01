"""Faults that show without running the code, such as a name that nothing defines: branches that no test reaches have them, too."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_a_linter_finds_nothing():
    found = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", str(REPOSITORY)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
