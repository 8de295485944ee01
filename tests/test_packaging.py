"""What a host's package manager reads, and what it costs to be imported."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nodes_without_host import NAME, room

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_registry_finds_what_it_asks_for(project):
    about, comfy = project["project"], project["tool"]["comfy"]
    assert re.fullmatch(r"[a-z](?:[-._]?[a-z0-9])*", about["name"]) and "comfyui" not in about["name"] and len(about["name"]) < 100
    assert re.fullmatch(r"\d+\.\d+\.\d+", about["version"])
    assert {"description", "license", "requires-python"} <= about.keys()
    assert {"PublisherId", "DisplayName", "requires-comfyui"} <= comfy.keys()


def test_no_requirement_names_a_version_and_the_hosts_needs_no_torch(project):
    lines = [line for line in (REPOSITORY / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z-]+", line) for line in [*lines, *project["project"]["dependencies"]])
    assert set(project["project"]["dependencies"]) - set(lines) == {"torch"}


def test_workflows_name_the_package_that_they_need(project):
    sources = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "example_workflows").glob("*.json"))
    assert set(re.findall(r'"cnr_id": "([^"]+)"', sources)) == {project["project"]["name"], "comfy-core"}


@pytest.mark.parametrize("name, served_by_the_host", [("ComfyUI-MIGM-Shortcut", True), ("any other name.1", False)])
def test_being_imported_loads_nothing(tmp_path, name, served_by_the_host):
    (tmp_path / name).symlink_to(REPOSITORY)
    program = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location({name!r}, {str(tmp_path / name / '__init__.py')!r}, submodule_search_locations=[])\n"
        "before = set(sys.modules)\n"
        f"module = sys.modules[{name!r}] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        f"assert callable(module.comfy_entrypoint) and hasattr(module, 'WEB_DIRECTORY') == {served_by_the_host}\n"
        "print(*sorted({each.split('.')[0] for each in set(sys.modules) - before}), sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "numpy", "PIL", "safetensors", "http", "ssl", "socket", "subprocess"}
    assert not heavy & set(done.stdout.split())


def test_a_librarys_panic_is_an_error_that_the_host_survives(monkeypatch):
    class Panic(BaseException):
        pass

    def panic():
        raise Panic("called `Option::unwrap()` on a `None` value")

    monkeypatch.setattr(room("files"), "register_model_folder", panic)
    with pytest.raises(RuntimeError, match="MIGM-Shortcut cannot be loaded: Panic: called"):
        asyncio.run(sys.modules[f"{NAME}.nodes"].MIGMExtension().get_node_list())


def test_of_two_copies_the_second_serves_nothing(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).symlink_to(REPOSITORY)
    program = (
        "import importlib.util, sys, types\n"
        "sys.modules['folder_paths'] = types.ModuleType('folder_paths')\n"  # the host's, in which the first leaves its name
        "def load(folder):\n"
        f"    spec = importlib.util.spec_from_file_location(folder, {str(tmp_path)!r} + '/' + folder + '/__init__.py', submodule_search_locations=[])\n"
        "    module = sys.modules[folder] = importlib.util.module_from_spec(spec)\n"
        "    spec.loader.exec_module(module)\n"
        "    return hasattr(module, 'WEB_DIRECTORY')\n"
        "print(load('first'), load('second'), load('first'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "True"]
