"""The plan of the house: who may know whom, that families have no name outside their folders, and that a method or a family is one file and one line."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from small_model import PROMPT
from torch import nn

from migm_core import families
from migm_core.bench.compare import compare
from migm_core.bench.ways import parse_ways
from migm_core.checkpoints import Checkpoint, CheckpointError, convert, describe, load_checkpoint
from migm_core.checkpoints.convert import as_it_is
from migm_core.cli import main
from migm_core.families.family import Family
from migm_core.families.lumina_dimoo.config import LuminaConfig
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.pipeline import Pipeline
from migm_core.sampling.backbone import Branch, at_positions
from migm_core.sampling.cost import largest_speed_up, step_costs
from migm_core.sampling.memory import run_bytes
from migm_core.sampling.methods import METHODS, Method, Vanilla
from migm_core.sampling.schedules import step_kinds
from migm_core.sampling.setting import setting
from migm_core.trained import Trained

REPOSITORY = Path(__file__).parents[1]

# Who may know whom. A room may import from the rooms that stand behind it, from those that they may, and from nowhere else of the project.
MAY = {
    "arguments": (),
    "canvas": ("arguments",),
    "devices": (),
    "images": (),
    "trained": (),
    "writing": (),
    "modules": (),
    "sampling": ("canvas", "modules"),
    "tokenizers": ("modules",),
    "settings": ("sampling",),
    "threads": ("sampling",),
    "result": ("settings",),
    "hub": ("writing",),
    "checkpoints": ("arguments", "devices", "settings", "trained", "writing"),
    "families": ("checkpoints", "tokenizers"),
    "switches": ("checkpoints", "tokenizers"),
    "pipeline": ("families", "hub", "images", "result", "switches", "threads"),
    "outputs": ("pipeline",),
    "training": ("outputs",),
    "bench": ("outputs",),
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
    "migm_core/cli/training.py": "commands that train a bundled model",
    "migm_core/hub.py": "an example of a repository's name",
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
    assert ("migm_core/pipeline.py", "migm_core.hub", False) in found  # from . import hub
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


# A method is one file and one line.


@dataclass(frozen=True)
class Toy(Method):
    """The base model at every ``every``-th step, and its features once more in between."""

    name = "toy"
    about = "features of the last full step, once more"
    own_steps = {"again": "the features of the last full step, once more"}

    every: int = setting(2, 1, 64, "a full step every so many steps")

    def kinds(self, steps):
        return ["full" if step % self.every == 0 else "again" for step in range(steps)]

    def start(self, backbone, sequences, mask_ratios):
        return ToyRun(self, backbone, sequences)

    def kept_bytes(self, config, dtype, lengths):
        return 10**9

    def step_macs(self, kind, config, head, positions):
        return 7


class ToyRun:
    def __init__(self, settings, backbone, sequences):
        self.settings, self.backbone, self.sequences = settings, backbone, sequences

    def features(self, step):
        if step.index % self.settings.every == 0:
            self.last = [self.backbone.features(sequence) for sequence in self.sequences]
        return [at_positions(last, sequence.positions[step.masked]) for last, sequence in zip(self.last, self.sequences)]


@pytest.fixture
def toy(monkeypatch):
    """Its one line in the registry."""
    monkeypatch.setitem(METHODS, "toy", Toy)


def printed(capsys, *argv) -> str:
    try:
        assert main([*map(str, argv)]) == 0
    except SystemExit as done:  # of --help
        assert not done.code
    return capsys.readouterr().out


def test_a_method_runs_by_its_name_with_its_setting(toy, pipeline):
    result = pipeline.generate(PROMPT, method="toy", steps=8, every=4)
    assert [kind for kind, _ in result.step_seconds] == ["full", "again", "again", "again"] * 2
    assert result.settings.used()["every"] == 4
    assert torch.equal(pipeline.generate(PROMPT, method="toy", every=1).tokens, pipeline.generate(PROMPT, method="vanilla").tokens)
    with pytest.raises(ValueError, match="every is 0, .*whole number from 1 to 64: a full step every so many steps"):
        pipeline.generate(PROMPT, method="toy", every=0)


def test_a_method_that_is_not_registered_is_an_argument(pipeline):
    result = pipeline.generate(PROMPT, method=Toy(every=4))
    assert result.settings.method == "toy" and result.full_steps == [0, 4]
    with pytest.raises(ValueError, match="'evry'.*'every'|There is no setting"):
        pipeline.generate(PROMPT, evry=4)


def test_a_methods_settings_that_are_mistyped_name_the_nearest(toy, pipeline):
    with pytest.raises(ValueError, match="'evry'.*'every'"):
        pipeline.generate(PROMPT, method="toy", evry=4)


@pytest.mark.parametrize("command", ["generate", "compare"])
def test_a_method_is_in_the_help_of_the_command_line(toy, capsys, command):
    said = " ".join(printed(capsys, command, "--help").split())
    assert "--every N" in said and "a full step every so many steps" in said
    assert command != "generate" or "toy: features of the last full step, once more" in said


def test_a_method_runs_from_the_command_line(toy, small, tmp_path, capsys):
    options = ["--model", small.folder, "--head", "none", "--method", "toy", "--every", 4, "--steps", 8, "--device", "cpu"]
    assert "2 full and 6 again steps" in printed(capsys, "generate", PROMPT, "--out", tmp_path / "x.png", *options)
    assert "every is 65" in _complaint(capsys, "generate", PROMPT, "--out", tmp_path / "x.png", *options, "--every", 65)


def _complaint(capsys, *argv) -> str:
    assert main([*map(str, argv)]) == 2
    return capsys.readouterr().err


def test_a_method_says_its_memory_and_its_cost(toy):
    config, rule, method = LuminaConfig(d_model=64, n_heads=2, n_kv_heads=2, n_layers=2, mlp_hidden_size=64), LuminaRule(), METHODS["toy"]()
    sizes = torch.float32, [100, 60], 16
    assert run_bytes(config, *sizes, method) == run_bytes(config, *sizes, Vanilla()) + 10**9
    kinds = step_kinds(method.kinds(8), rule.keep(64, 64, 8), 64)
    costs = step_costs(config, None, method, rule, kinds, 8, 8)
    masked = [64, *rule.keep(64, 64, 8)]
    assert [cost - count * config.width * config.codebook_size for cost, count in zip(costs, masked)][1::2] == [7] * 4
    assert 1 < largest_speed_up(config, None, method, rule, kinds, 8, 8) < 2


def test_a_method_is_in_the_bench(toy, pipeline):
    ways = parse_ways("vanilla; toy 8 every=4")
    assert ways["toy 8 every=4"] == {"method": "toy", "steps": 8, "every": 4}
    rows = compare(pipeline, [PROMPT], ways, rounds=1)
    assert [row.full_steps for row in rows] == [8, 2]
    assert rows[1].memory_bytes == rows[0].memory_bytes + 10**9


def test_the_bench_compares_all_methods_where_none_is_named(toy, small, capsys):
    said = printed(capsys, "compare", PROMPT, "--model", small.folder, "--head", small.head, "--rounds", 1, "--steps", 4, "--budget", 2, "--device", "cpu")
    assert [line.split("|")[1].strip() for line in said.splitlines() if line.startswith("|")][2:] == list(METHODS)


# A family is its folder and one line.


@dataclass(frozen=True)
class ToyConfig:
    width: int = 4
    codebook_size: int = 5
    block_weights: int = 0

    def sequence_length(self, prompt, rows, columns):
        return rows * columns

    def pass_macs(self, computed, positions):
        return 0

    def pass_bytes(self, positions, dtype):
        return 0

    def cache_bytes(self, positions, dtype):
        return 0

    def table_bytes(self, positions):
        return 0


class ToySequence:
    """The canvas in reading order, a masked token as -1, and no prompt."""

    def __init__(self, branch, canvas):
        self.tokens = torch.where(canvas.masked, -1, canvas.codes).flatten(1)
        self.positions = torch.arange(self.tokens.shape[1])
        self.weight, self.context, self.code = branch.weight, self.positions[:0], branch.prompt.view(-1, 1, 1).float()

    @property
    def length(self):
        return self.tokens.shape[1]

    def unmask(self, where, codes):
        self.tokens.scatter_(1, where, codes)


class ToyBackbone(nn.Module):
    """Answers each class with the code of its number."""

    config, device, dtype = ToyConfig(), torch.device("cpu"), torch.float32

    def sequence(self, branch, canvas):
        return ToySequence(branch, canvas)

    def features(self, sequence, cache=None):
        return sequence.code.expand(*sequence.tokens.shape, self.config.width)

    def code_logits(self, features, positions):
        return 100 * (features[..., :1] == torch.arange(self.config.codebook_size)).float()


class ToyImageTokenizer(nn.Module):
    config = SimpleNamespace(downscale_factor=2)

    def decode(self, codes, tile=0):
        return (codes / 4).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].expand(-1, 3, -1, -1)


class ToyFamily(Family):
    name, title, takes = "toy", "Toy", "classes"
    base_mark, whole_mark, head_mark = "toy.weight", "toy.weight", "toy_head.weight"
    config, head, rule = ToyConfig, type("ToyHeadConfig", (), {}), LuminaRule
    defaults = {"width": 8, "height": 4, "steps": 3, "budget": 2, "guidance_scale": 0.0, "temperature": 0.0}

    def parts(self, names):
        return {}

    def matches(self, path, source):
        return source is not None and "toy.weight" in source

    def load(self, path, source, **options):
        return Checkpoint(path, self, ToyBackbone(), ToyImageTokenizer(), None, dict(self.defaults))

    def is_head(self, source):
        return False

    def head_config(self, source, base=None):
        raise CheckpointError("There are no heads of toys.")

    build_head = new_head = typical_head = head_config

    def head_metadata(self, config):
        return {}

    def describe(self, path, source):
        return [f"{path}: a toy"] if self.matches(path, source) else None

    def convert(self, path, source, dtype):
        return {"toy.weight": as_it_is(source, "toy.weight")}, {"kind": "toy"}

    def sizes(self, path):
        return ToyConfig(), 2

    def own_settings(self, path):
        return dict(self.defaults), Trained()

    def branches(self, checkpoint, condition, negative, guidance_scale, batch):
        return [Branch(torch.tensor([condition]), 1.0, prompt_visible=False)]


@pytest.fixture
def toy_file(monkeypatch, tmp_path):
    """A file of the toy family, after its one line in the registry."""
    save_file({"toy.weight": torch.ones(3)}, tmp_path / "toy.safetensors")
    with pytest.raises(CheckpointError, match="none of the kinds known here: its first tensors are toy.weight. Expected a checkpoint of"):
        load_checkpoint(tmp_path / "toy.safetensors")
    monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, ToyFamily()))
    return tmp_path / "toy.safetensors"


def test_a_family_is_detected_described_and_converted(toy_file, tmp_path):
    family, source = families.detect(toy_file)
    assert family.name == "toy" and source.shapes == {"toy.weight": (3,)}
    assert describe(toy_file) == f"{toy_file}: a toy"
    convert(toy_file, tmp_path / "other.safetensors")
    assert describe(tmp_path / "other.safetensors").endswith("a toy")


def test_a_family_generates_with_the_methods_that_need_no_head(toy_file, capsys):
    pipeline = Pipeline.load(toy_file, device="cpu")
    for method in (None, "vanilla", Toy(every=2)):
        result = pipeline.generate([3, 1], method=method)
        assert [codes.unique().tolist() for codes in result.tokens] == [[3], [1]]
        assert result.images[0].size == (8, 4)
    with pytest.raises(ValueError, match="needs a shortcut head"):
        pipeline.generate(3, method="shortcut")


def test_a_head_of_another_family_is_refused_in_words(toy_file, small):
    with pytest.raises(CheckpointError, match="is a shortcut head for Lumina-DiMOO, but the base is of Toy"):
        Pipeline.load(toy_file, small.head, device="cpu")


def test_others_files_stay_theirs(toy_file, small):
    assert families.detect(small.folder)[0].name == "lumina-dimoo"
