"""Real ComfyUI servers with this extension in them.

Hosts come from COMFYUI_PATH, a list like PATH; by default ~/ComfyUI. Each runs with the Python of its folder venv/ if there
is one. Nothing is written into a host: a temporary base directory holds the extension, models, input and output.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # small_model

from client import Client
from small_model import SmallModel, make_small_head, make_small_model, small_config

REPOSITORY = Path(__file__).parents[2]
EXTENSION = "ComfyUI-MIGM-Shortcut"
START_SECONDS = 600


def hosts() -> list[Path]:
    paths = os.environ.get("COMFYUI_PATH", str(Path.home() / "ComfyUI")).split(os.pathsep)
    return [Path(path) for path in paths if (Path(path) / "main.py").exists()]


def pytest_terminal_summary(terminalreporter):
    if not hosts():
        terminalreporter.write_line("NOT TESTED on a real host: no ComfyUI found. Set COMFYUI_PATH to one or several of its folders.", red=True)


@dataclass
class Server:
    """A running host.

    Attributes:
        log: what it has printed, a file.
        pid: its process.
        base: its base directory.
        small: the tiny checkpoint that lies in its model folder as "small", with the heads "small.safetensors" and "foreign.safetensors".
    """

    client: Client
    log: Path
    base: Path
    small: SmallModel
    pid: int


@pytest.fixture(scope="session", params=hosts() or [None], ids=lambda path: path.name if path else "no host")
def host(request) -> Path:
    if request.param is None:
        pytest.skip("no ComfyUI found: set COMFYUI_PATH")
    return request.param


@pytest.fixture(scope="session")
def base(host, tmp_path_factory) -> Path:
    """A base directory with the extension and models in it."""
    folder = tmp_path_factory.mktemp("base")
    for name in ("custom_nodes", "input", "output", "models/migm", "elsewhere"):
        (folder / name).mkdir(parents=True)
    (folder / "custom_nodes" / EXTENSION).symlink_to(REPOSITORY)
    made = make_small_model(folder / "made")
    shutil.move(made.folder, folder / "models/migm/small")
    shutil.move(made.head, folder / "models/migm/small.safetensors")
    make_small_head(folder / "models/migm/foreign.safetensors", small_config(d_model=48, n_heads=2))
    shutil.copy(folder / "models/migm/small.safetensors", folder / "elsewhere/other.safetensors")
    (folder / "extra_model_paths.yaml").write_text(f"test:\n  base_path: {folder}\n  migm: elsewhere\n")
    return folder


@pytest.fixture(scope="session")
def python(host) -> str:
    own = host / "venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="session")
def server(host, base, python, environment):
    log = base / "server.log"
    port = free_port()
    command = [python, "main.py", "--cpu", "--base-directory", str(base), "--port", str(port), "--listen", "127.0.0.1", "--disable-auto-launch"]
    command += ["--disable-api-nodes", "--database-url", "sqlite:///:memory:", "--extra-model-paths-config", str(base / "extra_model_paths.yaml")]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=host, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        wait_until_up(process, port, log)
        with Client(port) as client:
            yield Server(client, log, base, SmallModel(base / "models/migm/small", base / "models/migm/small.safetensors"), process.pid)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_up(process, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/system_stats", timeout=5)
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    tail = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))[-3000:]
    raise RuntimeError(f"The host did not start:\n{tail}")
