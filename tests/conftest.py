"""Make the checkout importable without installing it, and a tiny model for every test that wants one."""

import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # beside each other, with all cores' threads in each and in its hosts, they would mostly wait
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

sys.path[:0] = [str(Path(__file__).resolve().parent / path) for path in ("", "tools", "..")]

import hosts
from hosts import base, environment, host, python, server, setting  # noqa: F401 - fixtures of tests/host and tests/browser


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """What tests train, and sample without a pipeline, is small as well: on a busy machine more threads make it dozens of times slower."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """Is heard as in a terminal: a shell's background jobs ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def painter(pipeline):
    """The tiny model with small sizes of its own: its input pictures take these."""
    from task_pictures import SIZES

    from migm_core.pipeline import Pipeline
    from migm_core.trained import Trained

    return Pipeline(replace(pipeline.checkpoint, trained=Trained(SIZES)), pipeline.head)


@pytest.fixture(scope="session")
def picture():
    """One of those sizes."""
    from task_pictures import noisy

    return noisy(64, 64)


@pytest.fixture
def generate(small, tmp_path, monkeypatch):
    """Run ``migm generate`` with the tiny model in an empty folder; it must succeed."""
    from commands import migm
    from small_model import PROMPT

    monkeypatch.chdir(tmp_path)

    def run(*options, prompt=PROMPT, head=small.head):
        assert migm("generate", prompt, "--model", small.folder, "--head", head, "--dtype", "fp32", "--device", "cpu", *options) == 0

    return run


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """A folder with a tiny model and trajectories of it, and that model, loaded. Tests only read them."""
    from training_runs import record

    folder = tmp_path_factory.mktemp("recorded")
    return folder, record(folder)


def pytest_addoption(parser):
    parser.addoption("--every-host", action="store_true", help="run all tests of ComfyUI on every host that is there, also those of what is the same on all")


def pytest_configure(config):
    config.addinivalue_line("markers", "hosts(*names): the hosts on which a test runs, of newest, oldest and all; see tests/hosts.py")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--every-host"):
        return
    left_out = [item for item in items if (on := hosts.setting_of(item)) and not hosts.chosen(item.get_closest_marker("hosts"), on)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(map(id, left_out))
        items[:] = [item for item in items if id(item) not in gone]


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
