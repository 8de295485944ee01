"""The nodes without a host: ``nodes/`` imported against stand-ins that record schemas and do nothing else.

For what a schema says. That the real host reads it the same way is shown in tests/host.
"""

import asyncio
import importlib.util
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

REPOSITORY = Path(__file__).parents[1]
NAME = "extension_without_host"
HOST = ["comfy", "comfy.cli_args", "comfy.ldm", "comfy.ldm.modules", "comfy.ldm.modules.attention", "comfy.model_management", "comfy.model_patcher", "comfy.ops", "comfy.utils", "comfy_execution", "comfy_execution.graph_utils", "comfy_execution.utils"]
HOST += ["folder_paths", "latent_preview", "server", "aiohttp"]


class Node:
    """What a node inherits."""


class Input:
    """One input; ``options`` are its schema's keywords."""

    def __init__(self, io_type: str, id: str, optional: bool = False, tooltip: str = "", **options):
        self.io_type, self.id, self.optional, self.tooltip, self.options, self.extra_dict = io_type, id, optional, tooltip, options, {}


class Output:
    def __init__(self, io_type: str, id: str, display_name: str = "", tooltip: str = "", is_output_list: bool = False):
        self.io_type, self.id, self.display_name, self.tooltip, self.is_output_list = io_type, id, display_name, tooltip, is_output_list


def _io_type(name: str):
    inputs = type("Input", (Input,), {"__init__": lambda self, id, **values: Input.__init__(self, name, id, **values)})
    outputs = type("Output", (Output,), {"__init__": lambda self, id, **values: Output.__init__(self, name, id, **values)})
    return SimpleNamespace(Input=inputs, Output=outputs)


@dataclass
class Schema:
    """What a node says of itself."""

    node_id: str
    display_name: str
    category: str
    description: str
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    search_aliases: list[str] = field(default_factory=list)
    has_intermediate_output: bool = False
    is_deprecated: bool = False
    is_output_node: bool = False


def _stand_ins() -> dict[str, ModuleType]:
    latest = ModuleType("comfy_api.latest")
    latest.ComfyExtension = object
    names = {"Int": "INT", "Float": "FLOAT", "String": "STRING", "Boolean": "BOOLEAN", "Combo": "COMBO", "Image": "IMAGE", "Mask": "MASK"}
    types = {name: _io_type(io_type) for name, io_type in names.items()}
    types["DynamicCombo"] = _io_type("COMFY_DYNAMICCOMBO_V3")  # of newer hosts
    types["DynamicCombo"].Option = lambda key, inputs: SimpleNamespace(key=key, inputs=inputs)
    latest.io = SimpleNamespace(**types, Custom=_io_type, Schema=Schema, ComfyNode=Node, Input=Input, Output=Output, NodeOutput=SimpleNamespace)
    folders = MagicMock(folder_names_and_paths=defaultdict(lambda: ([], set())), get_filename_list=lambda folder: [])
    return {**{name: MagicMock() for name in HOST}, "folder_paths": folders, "comfy_api": ModuleType("comfy_api"), "comfy_api.latest": latest}


@cache
def schemas() -> dict[str, Schema]:
    """Every node's schema by its id. The package is imported from its path, under a name of no meaning, as a host does it."""
    spec = importlib.util.spec_from_file_location(NAME, REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)])
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stand_ins = {name: stand_in for name, stand_in in _stand_ins().items() if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        nodes = outcome(outcome(module.comfy_entrypoint()).get_node_list())
        return {schema.node_id: schema for schema in (node.define_schema() for node in nodes)}
    finally:
        for name in stand_ins:
            del sys.modules[name]


def all_inputs(schema) -> list:
    """A node's inputs, with those that a choice brings, which the page names after its list."""
    found = {each.id: each for each in schema.inputs}
    for each in schema.inputs:
        for option in each.options["options"] if each.io_type == "COMFY_DYNAMICCOMBO_V3" else ():
            found |= {f"{each.id}.{inner.id}": SimpleNamespace(id=f"{each.id}.{inner.id}", tooltip=inner.tooltip, io_type=inner.io_type) for inner in option.inputs}
    return list(found.values())


def outcome(coroutine):
    """What a coroutine returns, run in a thread of its own: where there is a browser, Playwright's loop runs in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def room(name: str) -> ModuleType:
    """A module of ``nodes/``."""
    schemas()
    return sys.modules[f"{NAME}.nodes.{name}"]
