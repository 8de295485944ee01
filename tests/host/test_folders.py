"""Where the extension and its models lie: two copies, odd folder names, files that nobody can read, checkpoints in every place."""

import os
import shutil
import time
import urllib.parse

import pytest
from client import Refused
from hosts import REPOSITORY, serving, write_paths
from nodes_without_host import schemas
from small_model import make_small_model

pytestmark = pytest.mark.hosts("newest", "oldest")

ODD = ["MIGM-Shortcut (1) #2 {a} 100%", "模型 [v0.1] {a} 100%"]  # two copies, whichever the host finds first
OTHER_PACK = '''
class Other:
    INPUT_TYPES = lambda: {"required": {}}
    RETURN_TYPES, FUNCTION, CATEGORY = (), "run", "other"


NODE_CLASS_MAPPINGS = {"OtherPack": Other}
'''


@pytest.fixture(scope="module")
def crowded(setting, python, environment, tmp_path_factory):
    """A client and the log of a host with the extension in two odd folders, another pack, and models in every place."""
    base = tmp_path_factory.mktemp("crowded")
    for name in ("custom_nodes/other", "input", "output", "models/migm", "models/diffusion_models", "extra"):
        (base / name).mkdir(parents=True)
    for name in ODD:
        (base / "custom_nodes" / name).symlink_to(REPOSITORY)
    (base / "custom_nodes/other/__init__.py").write_text(OTHER_PACK)
    made = make_small_model(base / "made")
    shutil.copytree(made.folder, base / "models/migm", dirs_exist_ok=True)  # as hf download --local-dir models/migm leaves it
    shutil.copytree(made.folder, base / "extra/Lumina-DiMOO")  # a model folder that is a checkpoint
    shutil.copytree(made.folder, base / "models/migm/models--Alpha-VLLM--Lumina-DiMOO/snapshots/0123abc")
    shutil.copy(made.head, base / "models/migm/HEAD.SAFETENSORS")
    for folder in ("migm", "diffusion_models"):
        os.mkfifo(base / "models" / folder / "pipe.safetensors")
        (base / "models" / folder / "gone.safetensors").symlink_to(base / "nowhere")
        (base / "models" / folder / "loop.safetensors").symlink_to(base / "models" / folder / "loop.safetensors")
        (base / "models" / folder / "folder.safetensors").mkdir()
        (base / "models" / folder / "empty.safetensors").write_bytes(b"")
    write_paths(setting, base, migm="extra/Lumina-DiMOO")
    with serving(setting, base, python, environment) as (client, log, _):
        yield client, log


@pytest.fixture(scope="module")
def client(crowded):
    return crowded[0]


@pytest.fixture(scope="module")
def info(client) -> dict:
    return client.get("/object_info")


def options(info: dict, node: str, name: str) -> list[str]:
    io_type, limits = info[node]["input"]["required"][name]
    return io_type if isinstance(io_type, list) else limits["options"]


# Two copies


def test_of_two_copies_one_serves_and_the_log_names_both(crowded, info):
    log = crowded[1].read_text(errors="replace")
    (line,) = [line for line in log.splitlines() if "MIGM-Shortcut is installed twice" in line]
    assert all(name in line for name in ODD)
    assert "OtherPack" in info and sum(name.startswith("MIGM") for name in info) == len(schemas())


def test_the_page_gets_each_script_once(client):
    scripts = [path for path in client.get("/extensions") if path.endswith("step_timeline.js")]
    assert len(scripts) == 1


# Odd names


def test_the_page_gets_its_files_whatever_the_folder_is_called(client, info):
    for path in client.get("/extensions"):
        if path.rpartition("/")[2] in {each.name for each in (REPOSITORY / "web").glob("*.js")}:
            assert client._open(path) == (REPOSITORY / "web" / path.rpartition("/")[2]).read_bytes()
            folder = path.rpartition("/")[0]
    assert client._open(f"{folder}/step_timeline.css") == (REPOSITORY / "web/step_timeline.css").read_bytes()
    # As the page makes the address of a help page.
    for node in (name for name in info if name.startswith("MIGM")):
        module = info[node]["python_module"].split(".")[1]
        for page in (f"{node}.md", f"{node}/zh.md"):
            assert client._open(f"/extensions/{module}/docs/{page}") == (REPOSITORY / "web/docs" / page).read_bytes()


def test_templates_are_there_whatever_the_folder_is_called(client):
    listed = client.get("/workflow_templates")
    served = []
    for folder in ODD:
        for name in listed[folder]:
            try:
                served.append(client._open(f"/api/workflow_templates/{urllib.parse.quote(folder)}/{name}.json"))
            except Refused:
                pass
    assert sorted(served) == sorted(path.read_bytes() for path in (REPOSITORY / "example_workflows").glob("*.json"))


def test_both_languages_are_there_whatever_the_folder_is_called(client):
    served = client.get("/i18n")
    assert served["en"]["dataTypes"]["MIGM_MODEL"] == "MIGM model" and "MIGMShortcutSampler" in served["zh"]["nodeDefs"]


# Models


def test_what_cannot_be_read_is_left_out_and_all_else_is_listed(crowded, info):
    models, heads = options(info, "MIGMLoadLumina", "model"), options(info, "MIGMLoadShortcutHead", "head")
    assert models[0] == "bundled demo" and sorted(models[1:]) == ["Alpha-VLLM/Lumina-DiMOO", "Lumina-DiMOO", "migm"]
    assert heads == ["bundled demo", "bundled demo (MaskGIT)", "HEAD.SAFETENSORS"]
    assert "UNETLoader" in info


@pytest.mark.parametrize("name", ["Lumina-DiMOO", "migm", "Alpha-VLLM/Lumina-DiMOO"])
def test_a_checkpoint_loads_from_wherever_it_is_listed(client, name):
    assert client.get(f"/migm/plan?{urllib.parse.urlencode({'model': name})}")["own"]["width"] == 32
    graph = {
        "model": {"class_type": "MIGMLoadLumina", "inputs": {"model": name, "dtype": "fp32"}},
        "canvas": {"class_type": "MIGMEmptyCanvas", "inputs": {"model": ["model", 0], "width": 0, "height": 0, "batch": 1}},
        "decode": {"class_type": "MIGMDecodeCanvas", "inputs": {"canvas": ["canvas", 0]}},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
    }
    assert client.images(client.run(graph), "show")[0].shape == (32, 32, 3)


def test_nothing_waits_for_a_pipe(client):
    began = time.monotonic()
    client.get("/object_info/MIGMLoadLumina")
    assert time.monotonic() - began < 30  # it would wait for good
