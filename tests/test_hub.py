"""Repositories by name, from a hub on this machine: what is fetched, when, where to, and what is said when that fails.

Each call is a process of its own, since huggingface_hub reads its environment once.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import hub_server
import pytest
from hub_server import HubServer

from migm_core import hub
from migm_core.hub import fetching
from migm_core.hub.explain import explain
from migm_core.hub.folders import RECORD
from migm_core.hub.names import parse

ROOT = Path(__file__).resolve().parents[1]
NAME = "Some-One/tiny.model_1"
HEAD = f"{NAME}:heads/head.pth"
CHUNK = 10 * 2**20  # bytes that huggingface_hub writes at a time: what it keeps of a transfer that breaks off are whole chunks
BIG = bytes(range(256)) * (2**20 // 256) * 12  # 12 MiB
WEIGHTS = bytes(range(256)) * 16
FILES = {
    "config.json": b'{"d_model": 32}',
    "heads/head.pth": b"head",
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "vqvae/diffusion_pytorch_model.safetensors": b"vq",
    "modeling.py": b"raise SystemExit('run')",
    "pytorch_model.bin": b"pickle",
    "README.md": b"# read",
}
READ = ["config.json", "heads/head.pth", "model.safetensors", "tokenizer.json", "vqvae/diffusion_pytorch_model.safetensors"]

CALL = """
import json, sys
from migm_core import hub
verb, arguments = sys.argv[1], json.loads(sys.argv[2])
try:
    print(json.dumps(str(getattr(hub, verb)(**arguments))))
except hub.HubError as error:
    print(json.dumps({"error": str(error)}))
"""


# A process that dies where it would try again after a broken connection.
DIES = """
import os, time
time.sleep = lambda seconds: os._exit(9)
"""


@pytest.fixture
def server():
    server = HubServer()
    server.repositories[NAME] = {"main": FILES, "v1": {**FILES, "model.safetensors": WEIGHTS[::-1]}}
    yield server
    server.close()


@pytest.fixture
def call(server, tmp_path):
    """Call a function of migm_core.hub in a process of its own: its path, or the sentence that it fails with."""
    work = tmp_path / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING")) and "proxy" not in name.lower()}
    environment |= {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])}

    def call(verb="resolve", name=NAME, *, offline=False, killed=False, folder=None, **arguments):
        values = {"name": name, "folder": folder and str(folder), **arguments}
        done = subprocess.run(
            [sys.executable, "-c", DIES + CALL if killed else CALL, verb, json.dumps(values)],
            cwd=work,
            env={**environment, **({"HF_HUB_OFFLINE": "1"} if offline else {})},
            capture_output=True,
            text=True,
        )
        assert done.returncode == (9 if killed else 0), done.stderr
        if killed:
            return "killed"
        answer = json.loads(done.stdout.splitlines()[-1])
        return answer["error"] if isinstance(answer, dict) else Path(answer)

    def command(*words):
        return subprocess.run([sys.executable, "-m", "migm_core", *map(str, words)], cwd=work, env=environment, capture_output=True, text=True)

    call.command = command
    call.work, call.home = work, tmp_path / "home"
    return call


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)


NOT_REPOSITORIES = (
    "demo",
    "Lumina-DiMOO",
    "./Some-One/tiny",
    "../tiny",
    "/models/tiny",
    "models/migm/tiny",
    "C:/models",
    "C:\\models\\tiny",
    "models\\tiny/x",
    "Some-One/tiny/",
    "~/tiny",
    "heads/shortcut.safetensors",
    "heads/shortcut.PTH",
    "Some-One/tiny:modeling.py",
    "Some-One/tiny:../head.pth",
    "Some-One/tiny:/etc/head.pth",
    "Some One/tiny",
    "Some-One/tiny--x",
    "Some-One/tiny.git",
    "",
    Path(NAME),
)


@pytest.mark.parametrize("name", NOT_REPOSITORIES, ids=str)
def test_a_path_is_no_repository(name):
    assert not hub.is_repository(name)
    assert hub.resolve(name) == Path(name)
    with pytest.raises(hub.HubError, match="names no repository"):
        hub.download(name)


@pytest.mark.parametrize("name", [NAME, HEAD, f"{NAME}@v1", f"{NAME}@refs/pr/1:heads/head.safetensors", "Alpha-VLLM/Lumina-DiMOO"])
def test_a_repository_is_one(name):
    assert hub.is_repository(name)


def test_what_lies_on_disk_wins(call, server):
    (call.work / NAME).mkdir(parents=True)
    assert call() == Path(NAME)
    assert not server.asked and not call.home.exists()


def test_only_files_that_are_read_are_fetched_and_a_second_call_needs_no_network(call, server):
    path = call()
    assert files_in(path) == READ
    assert all((path / file).read_bytes() == FILES[file] for file in READ)
    assert call.home in path.parents
    assert sorted(server.fetched()) == READ
    server.close()
    assert call() == path
    assert call(offline=True) == path


def test_a_second_call_asks_nothing_where_the_hub_keeps_lists(call, server):
    call()
    server.asked.clear()
    call()
    import huggingface_hub

    if hasattr(huggingface_hub, "get_cached_repo_tree"):
        assert not server.asked
    else:
        assert not server.fetched()


def test_a_connection_that_breaks_goes_on_where_it_stopped(call, server):
    server.repositories[NAME] = {"main": {**FILES, "model.safetensors": BIG}}
    server.breaks["model.safetensors"] = CHUNK + 300_000
    path = call()
    assert (path / "model.safetensors").read_bytes() == BIG
    ranges = [asked for method, path, asked in server.asked if method == "GET" and path.endswith("/model.safetensors")]
    assert ranges == [None, f"bytes={CHUNK}-"]


def test_after_a_stop_finished_files_are_kept(call, server):
    server.breaks["model.safetensors"] = 1000
    assert call(killed=True) == "killed"
    before = server.fetched()
    assert before == ["config.json", "heads/head.pth", "model.safetensors"]
    path = call()
    assert files_in(path) == READ and (path / "model.safetensors").read_bytes() == WEIGHTS
    assert server.fetched()[len(before)] == "model.safetensors"


def test_one_file(call, server):
    path = call(name=HEAD)
    assert path.read_bytes() == b"head" and path.name == "head.pth"
    assert server.fetched() == ["heads/head.pth"]
    server.close()
    assert call(name=HEAD) == path


def test_a_revision(call, server):
    path = call(revision="v1")
    assert (path / "model.safetensors").read_bytes() == WEIGHTS[::-1]
    commit = server.files(NAME, "v1")[0]
    assert call(name=f"{NAME}@v1") == call(revision=commit) == path
    assert (call() / "model.safetensors").read_bytes() == WEIGHTS
    assert call(name=f"{NAME}@v1", revision="main").startswith(f"{NAME}@v1 names the revision v1, but")


def test_a_folder(call, server, tmp_path):
    folder = tmp_path / "here"
    assert call("download", folder=folder) == folder
    assert files_in(folder) == READ
    assert call(folder=folder) == folder
    (folder / "model.safetensors").write_bytes(WEIGHTS[:1000])
    server.asked.clear()
    assert call("download", folder=folder) == folder
    assert server.fetched() == ["model.safetensors"] and (folder / "model.safetensors").read_bytes() == WEIGHTS
    server.close()
    assert call(folder=folder) == folder
    assert "and HF_HUB_OFFLINE forbids" in call(folder=folder, revision="v1", offline=True)
    assert "cannot be reached" in call(folder=folder, revision="v1")


def test_another_models_folder_is_left_alone(call, server, tmp_path):
    server.repositories["Some-One/other"] = {"main": {"model.safetensors": b"other"}}
    call("download", folder=tmp_path / "first")
    assert f"holds {NAME}: choose another folder" in call("download", "Some-One/other", folder=tmp_path / "first")
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "config.json").write_text("mine")
    assert "config.json is not that of Some-One/tiny.model_1" in call("download", folder=tmp_path / "second")
    assert (tmp_path / "second" / "config.json").read_text() == "mine"
    assert files_in(tmp_path / "second") == ["config.json"]


def test_a_folder_that_changes_its_revision_is_not_taken_for_either_before_it_is_whole(call, server, tmp_path):
    folder = tmp_path / "here"
    call("download", folder=folder)
    record = folder / RECORD
    call("download", folder=folder, revision="v1")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS[::-1]
    values = json.loads(record.read_text())
    record.write_text(json.dumps({**values, "whole": False, "files": {}}))  # as a stop half way leaves it
    server.close()
    assert "cannot be reached" in call(folder=folder)


def test_comfyui(call, server):
    for part in ("main.py", "folder_paths.py"):
        (call.work / part).touch()
    (call.work / "models").mkdir()
    folder = call.work / "models" / "migm" / NAME
    assert call() == folder and files_in(folder) == READ
    assert call(name=HEAD) == folder / "heads/head.pth"
    server.close()
    assert call() == folder
    assert call(name=HEAD) == folder / "heads/head.pth"


def test_a_folder_that_the_user_filled_needs_no_network(call, server):
    for part in ("main.py", "folder_paths.py"):
        (call.work / part).touch()
    folder = call.work / "models" / "migm" / NAME
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"mine")
    assert call() == folder
    assert not server.asked


def test_a_file_of_another_size_is_fetched_again(call, server):
    path = call()
    (path / "model.safetensors").resolve().write_bytes(WEIGHTS[:1000])
    assert call("download") == path
    assert (path / "model.safetensors").read_bytes() == WEIGHTS


def test_the_command(call, server, tmp_path):
    folder = tmp_path / "here"
    done = call.command("download", NAME, "--to", folder, "--revision", "v1")
    assert (done.returncode, done.stdout) == (0, f"{folder}\n")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS[::-1]
    done = call.command("download", "Some-One/none")
    assert done.returncode == 2 and done.stderr.startswith(f"migm: {server.endpoint} shows no repository Some-One/none") and done.stderr.count("\n") == 1


def test_an_update_comes_when_asked_for(call, server):
    path = call()
    server.repositories[NAME]["main"] = {**FILES, "model.safetensors": b"new"}
    assert call("download") != path
    assert (call() / "model.safetensors").read_bytes() == b"new"


def test_errors_say_what_to_do(call, server, tmp_path):
    server.repositories["Some-One/empty"] = {"main": {"README.md": b"", "model.py": b""}}
    server.repositories["Some-One/gated"] = {"main": FILES}
    server.repositories["Some-One/private"] = {"main": FILES}
    server.gated.add("Some-One/gated")
    server.private.add("Some-One/private")
    said = {
        "Some-One/none": "shows no repository Some-One/none, and nothing here has that name: check the name or, if it is private, run `hf auth login`.",
        "Some-One/private": f"{server.endpoint} refuses access to Some-One/private (status 401): run `hf auth login` with an account that may read it.",
        "Some-One/gated": f"Some-One/gated is gated: accept its terms at {server.endpoint}/Some-One/gated, then run `hf auth login` and try again.",
        f"{NAME}@v9": f"{NAME} has no revision v9: expected one of its branches, tags or commits.",
        f"{NAME}:heads/hed.pth": f"{NAME} has no file heads/hed.pth. It has heads/head.pth",
        "Some-One/empty": "Some-One/empty has no weights that are read here",
    }
    for name, sentence in said.items():
        assert sentence in call(name=name)
    server.close()
    unreachable = call()
    assert unreachable.startswith(f"{server.endpoint} cannot be reached (") and "\n" not in unreachable
    assert call(offline=True) == f"{NAME} is not here whole, and HF_HUB_OFFLINE forbids to fetch it: set it to 0, or fetch the model first."


def test_a_repository_of_more_files_than_a_model_has_is_not_fetched(call, server):
    server.repositories[NAME]["main"] = {**FILES, **{f"{number}.json": b"{}" for number in range(1000)}}
    assert f"{NAME} has 1,005 files to fetch, but no model known here has more than 1,000" in call()
    assert server.fetched() == []


@pytest.mark.parametrize("answer", [[], {"sha": None, "siblings": []}, {"id": NAME, "sha": "../..", "siblings": []}, {"id": NAME, "sha": "a" * 40, "siblings": [{"rfilename": 5}]}], ids=str)
def test_an_answer_that_describes_no_repository_is_said_to_be_none(call, server, monkeypatch, answer):
    right = hub_server._Handler._json
    monkeypatch.setattr(hub_server._Handler, "_json", lambda self, value: right(self, answer))
    assert call() == f"{server.endpoint} gave an answer for {NAME} that is not understood: check HF_ENDPOINT, or try again later."


def test_a_file_that_the_disk_cannot_hold(monkeypatch, tmp_path):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    wanted = parse(NAME)
    with pytest.raises(hub.HubError, match=r"no room for Some-One/tiny.model_1: it needs 16.0 GB, and 0.0 GB are free"):
        fetching.check_room(wanted, tmp_path / "not" / "yet", 16 * 10**9)
    fetching.check_room(wanted, tmp_path, 10**5)
    full = OSError(28, "No space left on device")
    assert explain(full, wanted, tmp_path) == f"The disk of {tmp_path} is full: free some room for {NAME}, then start again; finished files are kept."
    assert explain(KeyError("x"), wanted, tmp_path) is None
