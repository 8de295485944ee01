"""What a host's package manager reads, and what it costs to be imported."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import SUPPORTED, numbers
from nodes_without_host import NAME, outcome, room
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
# Modules of ComfyUI, and what it brings along.
HOSTS = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview", "nodes", "server", "aiohttp"}


@pytest.fixture(scope="module")
def project() -> dict:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_registry_finds_what_it_asks_for(project):
    about, comfy = project["project"], project["tool"]["comfy"]
    assert re.fullmatch(r"[a-z](?:[-._]?[a-z0-9])*", about["name"]) and "comfyui" not in about["name"] and len(about["name"]) < 100
    assert re.fullmatch(r"\d+\.\d+\.\d+", about["version"])
    assert {"description", "license", "requires-python"} <= about.keys()
    assert {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"} <= comfy.keys()
    assert {"Repository", "Documentation", "Bug Tracker"} <= about["urls"].keys()
    assert comfy["requires-comfyui"] == f">={min(SUPPORTED, key=numbers)}"  # the oldest version that is tested
    for key, size in (("Icon", (400, 400)), ("Banner", (1344, 576))):  # at most 400 pixels a side; 21:9
        with Image.open(REPOSITORY / ".github/registry" / Path(comfy[key]).name) as picture:
            assert picture.size == size


def test_the_changelog_begins_with_this_version(project):
    versions = re.findall(r"^## \[(.+?)\]", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == project["project"]["version"]


def test_the_package_needs_what_it_imports(project):
    """Of what is imported when a module is: what comes with Python, or is of the project, or is declared."""
    declared = set(project["project"]["dependencies"]) | {"PIL", "gguf", "yaml"}
    for path in [*(REPOSITORY / "migm_core").rglob("*.py"), *(REPOSITORY / "nodes").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {each.split(".")[0] for each in names} - HOSTS - sys.stdlib_module_names:
                assert name in declared, f"{path}: {name}"


def test_no_requirement_names_a_version_and_the_hosts_needs_no_torch(project):
    lines = [line for line in (REPOSITORY / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z_-]+", line) for line in [*lines, *project["project"]["dependencies"]])
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

    monkeypatch.setattr(room("host.folders"), "register_model_folder", panic)
    with pytest.raises(RuntimeError, match="MIGM-Shortcut cannot be loaded: Panic: called"):
        outcome(sys.modules[f"{NAME}.nodes"].MIGMExtension().get_node_list())


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
