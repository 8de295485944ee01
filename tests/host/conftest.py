"""What tests of one server share."""

import pytest
from client import Client

from migm_core.pipeline import Pipeline


@pytest.fixture(scope="module")
def client(server) -> Client:
    return server.client


@pytest.fixture(scope="module")
def engine(server) -> Pipeline:
    """The engine alone, on the server's files."""
    return Pipeline.load(server.small.folder, server.small.head, dtype="fp32", device="cpu")
