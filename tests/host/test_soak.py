"""A short soak of the newest ComfyUI: two clients, every kind of request, and every disturbance once. A long one: tests/tools/soak.py."""

import random
import shutil
import sys

import pytest
from client import Client
from hosts import Setting, has_dynamic_memory, hosts

if sys.platform != "linux":
    pytest.skip("counts handles by /proc", allow_module_level=True)

from soaking.figures import LIMITS, of_process
from soaking.files import Files
from soaking.references import References
from soaking.requests import KINDS, PICTURES, make_requests, write_pictures
from soaking.rounds import DISTURBANCES, Soak

SEED = 5


@pytest.fixture
def soak(setting, server, python, environment, tmp_path):
    newest = hosts()[0]
    if setting != Setting(newest, has_dynamic_memory(newest)):
        pytest.skip("a minute each: the newest host does it for all, with the memory that NVIDIA cards use by default")
    for name in ("made", "alone"):
        (tmp_path / name).mkdir()
    files = Files(server.base / "models/migm", tmp_path / "made")
    write_pictures(server.base / "input")
    rng, port = random.Random(SEED), int(server.client.url.rpartition(":")[2])
    with References(python, files, server.base / "input", tmp_path / "alone", environment) as references:
        soak = Soak([Client(port), Client(port)], server.pid, files, make_requests(rng, 1), references, rng)
        yield soak
        for client in soak.clients:
            client.socket.close()
    shutil.rmtree(files.folder)
    for name in PICTURES:
        (server.base / "input" / name).unlink()


def test_every_finished_run_is_the_engines_whatever_happens_meanwhile(server, soak):
    said = server.log.read_text(errors="replace").count("Traceback")
    soak.round("none")
    before = of_process(server.pid)
    for what in DISTURBANCES:
        soak.round(what)
    for request in soak.requests:
        if request.kind not in {each.request.kind for each in soak.seen}:
            soak.run(request)
    asked = {each.request.kind for each in soak.seen}
    soak.compare()
    assert not soak.wrong
    assert asked == set(KINDS) and soak.counts["cancelled"] >= 2 and soak.counts["files swapped"] >= 2
    assert soak.counts["equal"] == soak.counts["finished"] and soak.counts["previews"] > 0
    after = of_process(server.pid)
    assert all(after[name] - before[name] <= LIMITS[name] for name in ("handles", "threads"))
    assert server.log.read_text(errors="replace").count("Traceback") == said
