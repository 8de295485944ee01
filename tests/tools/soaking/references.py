"""What requests give alone: asked of ``alone.py`` when it is first needed, and remembered."""

import json
import subprocess
from pathlib import Path

import numpy as np

from .files import BASE, HEAD, MASKGIT_BASE, MASKGIT_SHORTCUT, Files
from .requests import Request


class References:
    """The engine alone, in processes of their own.

    Args:
        python: the host's, so that both compute with one PyTorch.
        pictures: the folder of input pictures.
        folder: an empty one for what comes out.
    """

    def __init__(self, python: str, files: Files, pictures: Path, folder: Path, environment: dict[str, str]):
        self.files, self.pictures, self.folder = files, pictures, folder
        self.known: dict[tuple, dict[str, np.ndarray]] = {}
        command = [python, str(Path(__file__).parent / "alone.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(60)

    def of(self, request: Request, variants: dict[str, int]) -> dict[str, np.ndarray]:
        """Pictures by their numbers, uint8 (h, w, 3), or "text".

        Args:
            variants: of the files that the request uses.
        """
        key = (request.number, *(variants[name] for name in request.uses))
        if key not in self.known:
            to, _ = self._ask(request, variants)
            with np.load(to) as made:
                self.known[key] = {name: made[name] for name in made.files}
        return self.known[key]

    def processor_seconds(self, request: Request) -> float:
        """What a request takes now: how fast the machine is, with whatever else it has to do."""
        return self._ask(request, {})[1]

    def _ask(self, request: Request, variants: dict[str, int]) -> tuple[Path, float]:
        """The file that is written, and the seconds on the processor."""

        def path(name: str) -> Path:
            return self.files.path(name, variants.get(name, 0))

        to = self.folder / "made.npz"
        of_families = {"lumina": [str(path(BASE).parent), str(path(HEAD))], "maskgit": [str(path(MASKGIT_BASE)), str(path(MASKGIT_SHORTCUT))]}
        asked = {"calls": request.alone, "files": of_families, "pictures": str(self.pictures), "to": str(to)}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if answer["said"] != "done":
            raise RuntimeError(f"The engine alone fails at {request}: {answer['said']}")
        return to, answer["processor"]
