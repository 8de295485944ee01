"""Real ComfyUI servers with this extension in them: fixtures for the tests of the host and of its page.

Hosts come from COMFYUI_PATH, a list like PATH; without it they are the checkouts ~/ComfyUI* that have a virtual environment of their
own in venv/. Each runs with the Python of its venv/ if there is one. Nothing is written into a host: a temporary base directory holds
the extension, models, input and output.

A host that has dynamic memory runs twice: without it, as it does by itself on a CPU, and with it, as it does by itself on an NVIDIA
card. There is one server for each, and tests that share one run in a row.

Tests run on every host unless they are marked: ``@pytest.mark.hosts("newest", "oldest")`` names those on which they do, both without dynamic memory, for what
is the same on the others; "all" takes a mark of the file back. With --every-host no mark counts.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "host")]  # small_model; client

from client import Client
from small_model import SmallModel, make_small_head, make_small_model, small_config

REPOSITORY = Path(__file__).parents[1]
EXTENSION = "ComfyUI-MIGM-Shortcut"
START_SECONDS = 600
MASKGIT, MASKGIT_HEAD = "maskgit/MaskGIT/MaskGIT_ImageNet_tiny.pth", "maskgit-shortcut.pth"
SUPPORTED = ("0.33.0", "0.8.0", "0.3.75", "0.3.64")  # the versions that a release is tested on

# A pack of nodes that turns dynamic memory on where there is no card. The host's own option asks for one.
# Its library reads files without a card, but must be opened before the host's modules look for it.
OPEN_LIBRARY = "import comfy_aimdo.control\n\nassert comfy_aimdo.control.init()\n"
TURN_ON = """import logging

import comfy.memory_management
import comfy.model_patcher

comfy.memory_management.aimdo_enabled = True
comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
NODE_CLASS_MAPPINGS = {}
logging.info("dynamic memory is on")
"""


class Setting(NamedTuple):
    """A host's folder, and whether its dynamic memory is on."""

    path: Path
    dynamic: bool

    def __str__(self) -> str:
        return f"{version(self.path)}{'-dynamic' if self.dynamic else ''}"


def python_of(path: Path) -> Path:
    """The Python of a host's own virtual environment, which may not be there."""
    return path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def hosts() -> list[Path]:
    """Folders of hosts, the newest version first."""
    if "COMFYUI_PATH" in os.environ:
        found = [Path(path) for path in os.environ["COMFYUI_PATH"].split(os.pathsep) if path]
        if wrong := [str(path) for path in found if not (path / "main.py").exists()]:
            raise pytest.UsageError(f"COMFYUI_PATH names {', '.join(wrong)}, where there is no main.py. It takes folders of ComfyUI, with {os.pathsep!r} between them.")
    else:
        found = [path for path in Path.home().glob("ComfyUI*") if (path / "main.py").exists() and python_of(path).exists()]
    return sorted((path.resolve() for path in found), key=lambda path: numbers(version(path)), reverse=True)


def version(path: Path) -> str:
    file = path / "comfyui_version.py"
    found = re.search(r'__version__ = "([^"]+)"', file.read_text("utf-8")) if file.exists() else None
    return found[1] if found else path.name


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def has_dynamic_memory(path: Path) -> bool:
    file = path / "comfy" / "memory_management.py"
    return file.exists() and "aimdo_enabled" in file.read_text("utf-8")


def settings() -> list[Setting]:
    return [Setting(path, dynamic) for path in hosts() for dynamic in ((False, True) if has_dynamic_memory(path) else (False,))]


def setting_of(item: pytest.Item) -> Setting | None:
    """The host that a test runs on; None for any other test."""
    found = item.callspec.params.get("setting") if hasattr(item, "callspec") else None
    return found if isinstance(found, Setting) else None


def chosen(marker: pytest.Mark | None, setting: Setting) -> bool:
    """Whether a test runs on a host, by its mark."""
    plain = [each for each in settings() if not each.dynamic]
    return marker is None or any(name == "all" or setting == {"newest": plain[0], "oldest": plain[-1]}[name] for name in marker.args)


def summary() -> tuple[str, dict]:
    """A line on what was there to test, and how to show it."""
    there = [version(path) for path in hosts()]
    if not there:
        return f"NOT TESTED on a real host: no ComfyUI found, so none of {', '.join(SUPPORTED)}. Set COMFYUI_PATH to the folders of one or several.", {"red": True}
    lacking = [each for each in SUPPORTED if each not in there]
    line = f"Hosts: ComfyUI {', '.join(map(str, settings()))}."
    return (f"{line} NOT TESTED on ComfyUI {', '.join(lacking)}: not found.", {"red": True}) if lacking else (line, {})


@dataclass
class Server:
    """A running host.

    Attributes:
        log: what it has printed, a file.
        pid: its process.
        base: its base directory.
        small: the tiny checkpoint that lies in its model folder as "small", with the heads "small.safetensors" and "foreign.safetensors".
        maskgit: the tiny MaskGIT's base model, MASKGIT in the lists, with the head MASKGIT_HEAD.
    """

    client: Client
    log: Path
    base: Path
    small: SmallModel
    maskgit: SmallModel
    pid: int


@pytest.fixture(scope="session", params=settings() or [None], ids=lambda setting: str(setting) if setting else "no host")
def setting(request) -> Setting:
    if request.param is None:
        pytest.skip("no ComfyUI found: set COMFYUI_PATH")
    return request.param


@pytest.fixture(scope="session")
def host(setting) -> Path:
    return setting.path


@pytest.fixture(scope="session")
def base(setting, tmp_path_factory) -> Path:
    return make_base(setting, tmp_path_factory.mktemp("base"))


def make_base(setting: Setting, folder: Path) -> Path:
    """Make a base directory with the extension and models in it."""
    for name in ("custom_nodes", "input", "output", "models/migm", "elsewhere"):
        (folder / name).mkdir(parents=True)
    (folder / "custom_nodes" / EXTENSION).symlink_to(REPOSITORY)
    (folder / "custom_nodes/odd_pictures").symlink_to(REPOSITORY / "tests/host/odd_pictures")
    made = make_small_model(folder / "made")
    shutil.move(made.folder, folder / "models/migm/small")
    shutil.move(made.head, folder / "models/migm/small.safetensors")
    make_small_head(folder / "models/migm/foreign.safetensors", small_config(d_model=48, n_heads=2))
    shutil.copy(setting.path / "input/example.png", folder / "input")
    shutil.copy(folder / "models/migm/small.safetensors", folder / "elsewhere/other.safetensors")
    copy_maskgit(folder / "models/migm")
    write_paths(setting, folder, migm="elsewhere")
    return folder


def copy_maskgit(models: Path) -> None:
    """Put the tiny MaskGIT of the tests' data into a model folder, as published."""
    data = REPOSITORY / "tests/data/maskgit"
    made = models / "maskgit"
    shutil.copytree(data / "vqgan", made / "VQGAN", ignore=shutil.ignore_patterns("*callback*"))
    (made / "MaskGIT").mkdir()
    shutil.copy(data / Path(MASKGIT).name, models / MASKGIT)
    shutil.copy(data / MASKGIT_HEAD, models / MASKGIT_HEAD)
    heads = json.loads((data / "meta.json").read_text("utf-8"))["config"]["n_heads"]
    (made / "MaskGIT/config.json").write_text(json.dumps({"n_heads": heads}))


def write_paths(setting: Setting, base: Path, migm: str) -> None:
    """Write extra_model_paths.yaml: another folder of models, and of the pack that turns dynamic memory on where the setting wants it."""
    paths = f"test:\n  base_path: {base}\n  migm: {migm}\n"
    if setting.dynamic:
        pack = base / "first" / "dynamic_memory"
        pack.mkdir(parents=True)
        (pack / "prestartup_script.py").write_text(OPEN_LIBRARY)
        (pack / "__init__.py").write_text(TURN_ON)
        # The host takes packs in whatever order their folder lists them, but folders in order, and a default one first.
        paths += f"first:\n  base_path: {base}\n  is_default: true\n  custom_nodes: first\n"
    (base / "extra_model_paths.yaml").write_text(paths)


@pytest.fixture(scope="session")
def python(host) -> str:
    own = python_of(host)
    return str(own) if own.exists() else sys.executable


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """As the person's who starts a host: nothing that changes how it computes."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="session")
def server(setting, base, python, environment):
    with serving(setting, base, python, environment) as (client, log, pid):
        models = base / "models/migm"
        yield Server(client, log, base, SmallModel(models / "small", models / "small.safetensors"), SmallModel(models / MASKGIT, models / MASKGIT_HEAD), pid)


@contextmanager
def serving(setting: Setting, base: Path, python: str, environment: dict[str, str], options: Sequence[str] = ()):
    """A host on a base directory with extra_model_paths.yaml, see ``write_paths``: a client, its log and its process."""
    log = base / "server.log"
    port = free_port()
    command = [python, "main.py", "--cpu", "--base-directory", str(base), "--port", str(port), "--listen", "127.0.0.1", "--disable-auto-launch"]
    command += ["--disable-api-nodes", "--database-url", "sqlite:///:memory:", "--extra-model-paths-config", str(base / "extra_model_paths.yaml")]
    command += ["--preview-method", "auto"]  # a host makes no previews by itself
    with log.open("w") as out:
        process = subprocess.Popen([*command, *options], cwd=setting.path, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        wait_until_up(process, port, log)
        assert ("dynamic memory is on" in log.read_text(errors="replace")) == setting.dynamic
        with Client(port) as client:
            yield client, log, process.pid
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
