"""What goes wrong is said in words, at the place where it is."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from api import refusal, said, text_to_image
from small_model import edit_tensors

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


@pytest.mark.parametrize("options", ["", "red\nblue"], ids=["in words", "of options"])
def test_weights_that_give_no_numbers_for_an_answer_are_named(server, client, options):
    with damaged(server, "model.safetensors", "model.transformer.ln_f.weight") as model:
        ask = {"model": ["model", 0], "question": "large red house", "options": options, "length": 8, "block": 8, "steps": 0, "temperature": 0.0, "cfg": 0.0}
        ask |= {"remasking": "low-confidence", "stop": "never", "cache": False, "seed": 3}
        graph = {
            "model": {"class_type": "MIGMLoadLumina", "inputs": {"model": model, "dtype": "fp32"}},
            "ask": {"class_type": "MIGMAskAboutImage", "inputs": ask},
        }
        said(client, graph, [f"{model}: the base model's tensor model.transformer.ln_f.weight holds values that are not finite", "download it again"], node="ask")


def test_weights_that_give_no_picture_are_named(server, client):
    with damaged(server, "vqvae/diffusion_pytorch_model.safetensors", "decoder.conv_out.bias") as model:
        graph = text_to_image(head=None, steps=2)
        graph["model"]["inputs"]["model"] = model
        said(client, graph, [f"{model}: the image tokenizer's tensor decoder.conv_out.bias holds values that are not finite", "download it again"], node="sampler")


@contextmanager
def damaged(server, file: str, tensor: str) -> Iterator[str]:
    """The name of a copy of the tiny model, of which one tensor is no numbers."""
    folder = server.base / "models/migm/no-numbers"
    shutil.copytree(server.small.folder, folder)
    edit_tensors(folder / file, lambda tensors: tensors[tensor].fill_(float("nan")))
    yield folder.name
    shutil.rmtree(folder)


def test_a_long_negative_prompt_is_called_that(client):
    graph = text_to_image(cfg=2.0)
    graph["prompt"]["inputs"]["negative"] = "red " * 3000
    said(client, graph, ["The negative prompt has 3000 tokens (3000 words)", "Shorten it"], node="sampler")


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
