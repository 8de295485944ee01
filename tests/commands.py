"""Commands of `migm`, in this process and in others."""

import os
from pathlib import Path

from migm_core.cli import main

REPOSITORY = Path(__file__).resolve().parents[1]
ENV = {**os.environ, "PYTHONPATH": str(REPOSITORY)}  # of other processes


def migm(*argv) -> int:
    return main([str(part) for part in argv])
