"""The plan of the house: who may know whom, and that families have no name outside their folders."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from migm_core import families

REPOSITORY = Path(__file__).parents[1]
# Who may know whom. A room may import from the rooms that stand behind it, from those that they may, and from nowhere else of the project.
MAY = {
    "arguments": (),
    "command": ("writing",),
    "canvas": ("arguments",),
    "devices": ("arguments",),
    "images": (),
    "trained": (),
    "writing": (),
    "modules": (),
    "sampling": ("canvas", "modules"),
    "tokenizers": ("arguments", "modules"),
    "settings": ("sampling",),
    "threads": ("sampling",),
    "result": ("settings",),
    "hub": ("writing",),
    "checkpoints": ("arguments", "devices", "settings", "trained", "writing"),
    "families": ("checkpoints", "tokenizers"),
    "switches": ("checkpoints", "tokenizers"),
    "loading": ("hub", "switches"),
    "requested_settings": ("families", "switches"),
    "request": ("families", "result"),
    "questions": ("families",),
    "diagnosis": ("checkpoints",),
    "pipeline": ("diagnosis", "images", "loading", "questions", "request", "requested_settings", "threads"),
    "outputs": ("pipeline",),
    "training": ("outputs",),
    "bench": ("command", "outputs"),
    "worlds": ("training", "bench"),
    "cli": ("worlds",),
    "nodes": ("outputs",),
}
# Imports inside functions or for type checkers, which may go where the modules' own may not, and why.
LATER = {
    ("checkpoints", "families"): "to open a file is to ask each family whether it is its own",
    ("migm_core", "pipeline"): "the public names, imported when they are asked for",
    ("migm_core", "result"): "the public names, imported when they are asked for",
    ("migm_core", "settings"): "the public names, imported when they are asked for",
}
HOST = {"comfy", "comfy_execution", "folder_paths", "latent_preview", "server", "aiohttp", "nodes"}  # ComfyUI's own modules, but for the nodes' schema
FAMILY_NAMES = ("lumina", "dimoo", "maskgit")
# Files that may name a family in code, beside its folder, and why. Docstrings and comments may everywhere: they name sources. So may what the
# nodes say to their users.
MAY_NAME_FAMILIES = {
    "migm_core/families/__init__.py": "the registry",
    "migm_core/tokenizers": "a tokenizer is of the families that use it",
    "migm_core/worlds": "a bundled model is of some family",
    "migm_core/hub": "an example of a repository's name",
    "nodes/__init__.py": "the list of all nodes",
    "nodes/loaders.py": "a loader is of one family",
    "nodes/maskgit.py": "the nodes of one family",
    "nodes/tasks.py": "the nodes of one family",
    "nodes/outpaint.py": "the nodes of one family",
    "nodes/understand.py": "the nodes of one family",
    "nodes/host/text": "what is read and shown is of the family that writes text",
    "nodes/sampler.py": "a sampler is of one family: its inputs are the settings of a rule",
}


@dataclass(frozen=True)
class Import:
    """One import of one file.

    Attributes:
        file: from the root of the repository.
        module: full name of what is imported, as from there: migm_core.sampling.loop.
        later: whether it happens inside a function or for type checkers only.
    """

    file: Path
    line: int
    module: str
    later: bool


@cache
def files() -> tuple[Path, ...]:
    return tuple(path.relative_to(REPOSITORY) for top in ("migm_core", "nodes") for path in sorted((REPOSITORY / top).rglob("*.py")))


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))


def modules() -> set[str]:
    return {".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files()}


@cache
def imports() -> tuple[Import, ...]:
    return tuple(Import(file, node.lineno, module, later) for file in files() for node, later in _walk(tree(file)) for module in _imported(file, node))


def _walk(node: ast.AST, later: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        for_checkers = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        inside = later or for_checkers or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield child, later
        yield from _walk(child, inside)


def _imported(file: Path, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (each.name for each in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = [*file.parent.parts][: len(file.parent.parts) - node.level + 1] if node.level else []
        source = ".".join([*above, *filter(None, [node.module])])
        for each in node.names:
            yield f"{source}.{each.name}" if f"{source}.{each.name}" in modules() or not source else source


def room(module: str) -> str:
    """The room of a module of the project, or "" for one that is of another."""
    parts = module.split(".")
    if parts[0] == "nodes":
        return "nodes"
    return "" if parts[0] != "migm_core" else parts[1] if len(parts) > 1 else "migm_core"


def room_of(file: Path) -> str:
    return room(".".join(file.with_suffix("").parts).removesuffix(".__init__").removesuffix(".__main__"))


def reachable(name: str) -> set[str]:
    return {name, *(each for direct in MAY[name] for each in reachable(direct))}


def test_the_walk_finds_imports_of_all_kinds():
    found = {(str(each.file), each.module, each.later) for each in imports()}
    assert ("migm_core/loading.py", "migm_core.hub", False) in found  # from . import hub
    assert ("migm_core/sampling/methods/vanilla.py", "migm_core.sampling.backbone", False) in found  # from ..backbone import Backbone
    assert ("migm_core/checkpoints/load.py", "migm_core.families", True) in found
    assert ("nodes/host/folders.py", "folder_paths", False) in found
    assert any(file == "nodes/loaders.py" and module.startswith("migm_core.") for file, module, _ in found)  # from ..migm_core


def test_there_is_no_circle_of_rooms():
    assert set(TopologicalSorter(MAY).static_order()) == set(MAY)


def test_every_file_is_in_a_known_room():
    assert {room_of(file) for file in files()} - {"migm_core", "__main__"} == set(MAY)


def test_each_room_knows_those_below_it_only():
    wrong = []
    for each in imports():
        here, there = room_of(each.file), room(each.module)
        allowed = {"cli"} if each.file.name == "__main__.py" and here == "migm_core" else reachable(here) if here in MAY else {here}
        if there and there not in allowed | {"migm_core"} and not (each.later and (here, there) in LATER):
            wrong.append(f"{each.file}:{each.line} imports {each.module}")
    assert not wrong, "\n".join(wrong)


def test_every_exception_is_used():
    found = {(room_of(each.file), room(each.module)) for each in imports() if each.later}
    assert set(LATER) <= found


def test_no_two_modules_import_each_other():
    """Not in a circle of any length, as they are loaded."""
    graph = defaultdict(set)
    for each in imports():
        name = ".".join(each.file.with_suffix("").parts).removesuffix(".__init__")
        if not each.later and room(each.module) and each.module != name:
            graph[name].add(each.module)
    TopologicalSorter(graph).prepare()


def test_the_engine_knows_no_host_and_of_the_nodes_one_folder_does():
    wrong = []
    for each in imports():
        of_host = each.module.split(".")[0] in HOST and room(each.module) == "" or each.module.split(".")[0] == "comfy_api"
        if of_host and (each.file.parts[0] == "migm_core" or each.file.parts[:2] != ("nodes", "host") and not each.module.startswith("comfy_api")):
            wrong.append(f"{each.file}:{each.line} imports {each.module}")
    assert not wrong, "\n".join(wrong)


def test_family_names_stand_in_their_folders_only():
    wrong = []
    for file in files():
        if file.parts[:2] == ("migm_core", "families") and len(file.parts) > 3 or any(str(file).startswith(allowed) for allowed in MAY_NAME_FAMILIES):
            continue
        wrong += [f"{file}:{line} says {text!r:.100}" for line, text in _said(file) if any(name in text.lower() for name in FAMILY_NAMES)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("allowed", MAY_NAME_FAMILIES)
def test_who_may_name_families_does(allowed):
    said = [text for file in files() if str(file).startswith(allowed) for _, text in _said(file)]
    assert any(name in text.lower() for text in said for name in FAMILY_NAMES)


def _said(file: Path) -> Iterator[tuple[int, str]]:
    """Every name and text of a file with its line, but for docstrings, and for the nodes' texts that are not a family's own name."""
    module, for_users = tree(file), file.parts[0] == "nodes"
    docstrings = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            if not for_users or node.value in {family.name for family in families.FAMILIES}:
                yield node.lineno, node.value
        elif isinstance(node, (ast.Name, ast.Attribute, ast.FunctionDef, ast.ClassDef, ast.arg, ast.keyword, ast.alias)):
            names = (getattr(node, key, None) for key in ("id", "attr", "name", "arg", "asname"))
            yield from ((node.lineno, name) for name in names if isinstance(name, str))
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
