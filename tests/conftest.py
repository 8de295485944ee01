"""Make the checkout importable without installing it, and a tiny model for every test that wants one."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent / path) for path in ("", "tools", "..")]

import hosts
from hosts import base, environment, host, python, server, setting  # noqa: F401 - fixtures of tests/host and tests/browser


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """What tests train, and sample without a pipeline, is small as well: on a busy machine more threads make it dozens of times slower."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A tiny checkpoint and its head, made once. Tests only read it."""
    from small_model import make_small_model

    return make_small_model(tmp_path_factory.mktemp("small"))


@pytest.fixture
def copy(small, tmp_path):
    """A copy of the tiny checkpoint and its head, to damage."""
    from small_model import SmallModel

    folder = shutil.copytree(small.folder, tmp_path / "model")
    return SmallModel(folder, Path(shutil.copy(small.head, tmp_path / "shortcut.safetensors")))


@pytest.fixture(scope="session")
def pipeline(small):
    """The tiny checkpoint with its head, loaded once, in float32 on the CPU. Runs leave it as it was."""
    from migm_core.pipeline import Pipeline

    return Pipeline.load(small.folder, small.head, dtype="fp32", device="cpu")


def pytest_xdist_make_scheduler(config, log):
    """With several processes (-n 2), one runs all tests of a host, or of a file: they share a server, or models."""
    from xdist.scheduler import LoadScopeScheduling

    class ByHostOrFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            of_host = next((str(each) for each in sorted(hosts.settings(), key=lambda each: -len(str(each))) if f"[{each}" in nodeid), None)
            return of_host or nodeid.split("::")[0]

    return ByHostOrFile(config, log)


def pytest_terminal_summary(terminalreporter):
    import torch

    line, markup = hosts.summary()
    terminalreporter.write_line(line, **markup)
    if not torch.cuda.is_available():
        terminalreporter.write_line("NOT TESTED on a GPU: there is no CUDA device.", red=True)
