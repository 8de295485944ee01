"""What goes wrong is said in words, at the place where it is."""

import pytest
from api import refusal, text_to_image

pytestmark = pytest.mark.hosts("newest", "oldest")


@pytest.mark.parametrize(
    "name, value, complaint",
    [
        ("steps", 0, "smaller than min"),
        ("steps", 50_000_000, "bigger than max"),
        ("steps", "many", "Failed to convert"),
        ("steps", None, "Failed to convert"),
        ("budget", 1, "smaller than min"),
        ("budget", {"a": 1}, "Failed to convert"),
        ("method", "magic", "expected one of"),
        ("method", {"a": 1}, "expected one of"),
        ("method", [], "linked"),
        ("cfg", 1e9, "bigger than max"),
        ("cfg", -0.5, "smaller than min"),
        ("temperature", -1, "smaller than min"),
        ("seed", -1, "smaller than min"),
        ("canvas", ["model", 0], "mismatch"),
        ("prompt", ["model", 0], "mismatch"),
    ],
    ids=str,
)
def test_one_bad_value_is_one_error_at_its_input(client, name, value, complaint):
    ((node, where, text),) = refusal(client, text_to_image(**{name: value}))
    assert (node, where) == ("sampler", name) and complaint in text


@pytest.mark.parametrize("value", ["gone", "../../../etc", {"a": 1}, 3], ids=str)
def test_a_model_that_is_not_listed_is_refused_with_what_is(client, value):
    graph = text_to_image()
    graph["model"]["inputs"]["model"] = value
    ((node, where, text),) = refusal(client, graph)
    assert (node, where) == ("model", "model")
    assert "There is no model" in text and "models/migm" in text and "small.safetensors" not in text and "bundled demo" in text


def test_a_part_of_a_model_is_refused_with_what_is_there(client):
    graph = text_to_image()
    graph["model"]["inputs"]["model"] = "small/model.safetensors"
    ((node, where, text),) = refusal(client, graph)
    assert (node, where) == ("model", "model") and "is no model by itself. Found: bundled demo, small" in text


def test_a_damaged_head_is_called_damaged(server, client):
    path = server.base / "models/migm/damaged.safetensors"
    for content in (b"", server.small.head.read_bytes()[:500]):
        path.write_bytes(content)
        ((node, where, text),) = refusal(client, text_to_image(head=path.name))
        assert (node, where) == ("head", "head") and "damaged" in text and str(path) in text
    path.unlink()


def test_a_line_that_is_no_method_is_refused(client):
    graph = text_to_image()
    inputs = {key: graph["sampler"]["inputs"][key] for key in ("model", "prompt", "cfg", "temperature", "seed")}
    for line, words in [("very fast please", "is not understood"), ("shortcut 9 of 8", "budget is 9"), ("vanilla 50000", "50000 steps")]:
        graph["sampler"] = {"class_type": "MIGMCompareMethods", "inputs": {**inputs, "methods": f"vanilla\n{line}"}}
        ((node, where, text),) = refusal(client, graph)
        assert (node, where) == ("sampler", "methods") and repr(line) in text.replace('\\', "") and words in text


@pytest.mark.parametrize("name, source", [("model", "MIGM Load Lumina-DiMOO"), ("prompt", "MIGM Prompt"), ("head", "MIGM Load Shortcut Head"), ("canvas", "MIGM Empty Canvas")])
@pytest.mark.parametrize("value", ["small", 3, {"a": 1}, True], ids=str)
def test_a_value_where_a_link_belongs_is_one_sentence(client, name, source, value):
    graph = text_to_image()
    graph["sampler"]["inputs"][name] = value
    (error,) = client.run(graph).of("execution_error")
    assert error["node_id"] == "sampler" and error["exception_type"].endswith("ValueError")
    assert f"The input {name} got" in error["exception_message"] and source in error["exception_message"]


@pytest.mark.parametrize(
    "graph, words",
    [
        (text_to_image(head="foreign.safetensors"), ["foreign.safetensors", "'small'", "width 48", "width 32"]),
        (text_to_image(empty={"width": 0, "height": 20}), ["height is 20", "multiple of 8"]),
        (text_to_image(seed=2**64 - 1, empty={"batch": 2}), ["seed is"]),
    ],
    ids=["foreign head", "height", "seed"],
)
def test_what_only_a_run_can_tell_is_said_in_words(client, graph, words):
    (error,) = client.run(graph).of("execution_error")
    assert error["exception_type"].endswith("ValueError")
    assert all(word in error["exception_message"] for word in words), error["exception_message"]
