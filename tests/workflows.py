"""The example workflows: read, checked for their own sense, and turned into what the API takes."""

import json
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[1] / "example_workflows"
SUBGRAPHS = FOLDER.parent / "subgraphs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
SUBGRAPH_NAMES = sorted(path.stem for path in SUBGRAPHS.glob("*.json"))
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"  # a list whose choice decides what other inputs there are
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC}
NOTES = {"Note", "MarkdownNote"}  # nodes of the page only
TITLE = 30  # pixels of a node's title, above its position


class Input(NamedTuple):
    """One input of a node's type.

    Attributes:
        control: "control after generate" follows its value.
        limits: its options by the schema's names: options, min, max, step.
        choices: of a dynamic list, the inputs that each choice brings.
    """

    name: str
    io_type: str
    optional: bool
    control: bool
    limits: dict
    choices: dict[str, list["Input"]] | None = None

    @property
    def is_widget(self) -> bool:
        return self.io_type in WIDGETS

    @property
    def is_extra(self) -> bool:
        """Whether a workflow may leave it out, with its value: a node had none in earlier versions, and the page takes the usual value."""
        return self.is_widget and self.optional and bool(self.limits.get("advanced"))


def load(name: str, folder: Path = FOLDER) -> dict:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def inputs_of_schema(schema) -> list[Input]:
    """In the page's order, required ones first, of a schema from nodes_without_host."""
    return sorted(map(_of_schema, schema.inputs), key=lambda each: each.optional)


def _of_schema(each, prefix: str = "") -> Input:
    control, limits, choices = bool(each.options.get("control_after_generate")), each.options | each.extra_dict, None
    if each.io_type == DYNAMIC:
        choices = {option.key: [_of_schema(inner, f"{each.id}.") for inner in option.inputs] for option in each.options["options"]}
        limits["options"] = list(choices)
    return Input(prefix + each.id, each.io_type, each.optional, control, limits, choices)


def page_order(inputs: list[Input]) -> list[Input]:
    """As the page saves sockets: links first, then widgets."""
    return sorted(inputs, key=lambda each: each.is_widget)


def inputs_of_info(info: dict) -> list[Input]:
    """In the page's order, of an entry in the host's /object_info."""
    return _of_groups(info["input"])


def _of_groups(groups: dict, prefix: str = "") -> list[Input]:
    inputs = []
    for group in ("required", "optional"):
        for name, (io_type, *limits) in groups.get(group, {}).items():
            limits, choices = limits[0] if limits else {}, None
            if isinstance(io_type, list):
                io_type, limits = "COMBO", {**limits, "options": io_type}
            if io_type == DYNAMIC:
                choices = {option["key"]: _of_groups(option["inputs"], f"{name}.") for option in limits["options"]}
            inputs.append(Input(prefix + name, io_type, group == "optional", bool(limits.get("control_after_generate")), limits, choices))
    return inputs


def chosen(inputs: list[Input], saved: list) -> list[Input]:
    """With what the choice of a dynamic list brings, right after it; ``saved`` are the values of the widgets."""
    shown, left = [], list(saved)
    for each in inputs:
        shown.append(each)
        if each.is_widget and left:
            value = left.pop(0)
            if each.control:
                left = left[1:]
            if each.choices:
                inner = chosen(each.choices[value], left)
                shown += inner
                left = left[sum(1 + each.control for each in inner if each.is_widget) :]
    return shown


def values(node: dict, inputs: list[Input]) -> dict:
    """A node's widget values by name.

    Raises:
        AssertionError: there are more or fewer than the inputs have.
    """
    saved, found = list(node["widgets_values"]), {}
    for each in chosen(inputs, saved):
        if each.is_widget:
            if not saved and each.is_extra:
                continue
            assert saved, f"{node['type']} has no value for {each.name}"
            found[each.name] = saved.pop(0)
            if each.control:
                assert saved.pop(0) in ("fixed", "increment", "decrement", "randomize"), f"{node['type']} lacks a control after {each.name}"
    assert not saved, f"{node['type']} has values that belong to no input: {saved}"
    return found


def to_prompt(workflow: dict, inputs_of) -> dict:
    """What the page sends when Run is pressed; ``inputs_of`` gives a node type's inputs."""
    links = {link[0]: link for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        filled = values(node, inputs_of(node["type"]))
        for socket in node["inputs"]:
            if socket["link"] is not None:
                _, origin, slot, *_ = links[socket["link"]]
                filled[socket["name"]] = [str(origin), slot]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": filled}
    return prompt


def inside(subgraph: dict) -> dict:
    """A subgraph's inner graph as a workflow of its own, whose nodes have their own values where the outside gives some."""
    (inner,) = subgraph["definitions"]["subgraphs"]
    links = [list(link.values()) for link in inner["links"] if link["origin_id"] != -10]
    kept = {link[0] for link in links}
    nodes = [{**node, "inputs": [{**each, "link": each["link"] if each["link"] in kept else None} for each in node["inputs"]]} for node in inner["nodes"]]
    return {"nodes": nodes, "links": links}


def boxes(workflow: dict) -> dict[int, tuple[float, float, float, float]]:
    """Left, top, right and bottom of each node, with its title."""
    return {n["id"]: (n["pos"][0], n["pos"][1] - TITLE, n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1]) for n in workflow["nodes"]}
