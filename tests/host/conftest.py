"""What tests of one server share."""

import shutil

import pytest
from api import PAINTER
from client import Client
from small_model import edit_json, edit_tensors

from migm_core.pipeline import Pipeline

SIZES = [[64, 64], [96, 32]]
WORDS = 22  # of the tiny model's vocabulary, the first


@pytest.fixture(scope="module")
def client(server) -> Client:
    return server.client


@pytest.fixture(scope="module")
def engine(server) -> Pipeline:
    """The engine alone, on the server's files."""
    return Pipeline.load(server.small.folder, server.small.head, dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def painter(server):
    """The engine alone, on a copy of the tiny model that says small sizes of its own, which its input pictures take, and answers in words."""
    folder = server.base / "models/migm" / PAINTER
    shutil.copytree(server.small.folder, folder)
    edit_json(folder / "generation_config.json", trained={"sizes": SIZES})
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors["model.transformer.ff_out.weight"][:WORDS].mul_(4))
    yield Pipeline.load(folder, server.small.head, dtype="fp32", device="cpu")
    shutil.rmtree(folder)
