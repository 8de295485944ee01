"""Runs stopped, queued, repeated and unloaded in a real ComfyUI."""

import re
import time
from pathlib import Path

import pytest
from api import assert_same, long_run, text_to_image
from small_model import PROMPT


def test_a_stopped_run_ends_soon_and_the_next_is_good(client, engine):
    def stop(kind, data):
        if kind == "migm.step" and data["step"] == 3:
            client.post("/interrupt")

    outcome = client.run(long_run(), on_message=stop)
    assert outcome.messages[-1][0] == "execution_interrupted"
    assert outcome.of("migm.step")[-1]["step"] < 100  # of 1000: those that ended while the request travelled
    (seen,) = client.images(client.run(text_to_image(seed=60)), "save")
    assert_same(seen, engine.generate(PROMPT, seed=60).images[0])


def test_two_prompts_queued_at_once_both_finish(client, engine):
    prompts = [client.queue(text_to_image(seed=seed)) for seed in (70, 71)]
    outcomes = [client.wait(prompt) for prompt in prompts]
    for seed, outcome in zip((70, 71), outcomes):
        assert_same(client.images(outcome, "save")[0], engine.generate(PROMPT, seed=seed).images[0])


def test_a_run_that_no_page_asked_for_is_shown_on_none(client):
    steps = len(client.run(text_to_image(seed=72)).of("migm.step"))
    client.post("/prompt", {"prompt": text_to_image(seed=73)})
    assert len(client.run(text_to_image(seed=74)).of("migm.step")) == steps  # it comes after the other


def test_models_are_unloaded_on_request_and_come_back(client, engine):
    client.run(text_to_image(seed=80))
    client._open("/free", b'{"unload_models": true, "free_memory": true}')
    for _ in range(60):  # the server does it when it is next idle
        time.sleep(0.5)
        outcome = client.run(text_to_image(seed=80))
        if outcome.executed_nodes:
            break
    assert "model" in outcome.executed_nodes
    assert_same(client.images(outcome, "save")[0], engine.generate(PROMPT, seed=80).images[0])


def test_two_loaders_of_one_file_share_its_weights(server, client):
    graph = text_to_image(seed=90)
    graph["model 2"] = {"class_type": "MIGMLoadLumina", "inputs": {"model": "small", "dtype": "auto"}}  # on a CPU the same
    graph["prompt 2"] = {"class_type": "MIGMPrompt", "inputs": {"text": "a red tree on a snowy shore"}}
    graph["sampler 2"] = {"class_type": "MIGMShortcutSampler", "inputs": {**graph["sampler"]["inputs"], "model": ["model 2", 0], "prompt": ["prompt 2", 0]}}
    graph["save 2"] = {"class_type": "PreviewImage", "inputs": {"images": ["sampler 2", 0]}}
    before = server.log.read_text(errors="replace").count("Requested to load Lumina")
    outcome = client.run(graph)
    assert outcome.messages[-1][0] == "execution_success"
    assert server.log.read_text(errors="replace").count("Requested to load Lumina") <= before + 1


def test_a_replaced_file_is_loaded_anew(server, client):
    client.run(text_to_image(seed=95))
    path = Path(server.small.head)
    path.touch()
    assert "head" in client.run(text_to_image(seed=95)).executed_nodes


def test_ten_runs_in_a_row_keep_their_memory(server, client):
    def resident() -> int:
        status = Path(f"/proc/{server.pid}/status")
        if not status.exists():
            pytest.skip("this system does not tell a process's memory in /proc")
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read_text())[1]) * 1024

    for seed in (100, 101):  # what is allocated once
        client.run(text_to_image(seed=seed))
    before = resident()
    for seed in range(110, 120):
        client.run(text_to_image(seed=seed))
    assert resident() - before < 16 * 2**20
