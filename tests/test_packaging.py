"""What a host's package manager reads, and what it costs to be imported."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

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
