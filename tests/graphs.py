"""Graphs as the page saves them, built from the nodes' schemas: sockets in order, links, groups around columns of nodes."""

import uuid
from collections.abc import Iterable

from nodes_without_host import schemas
from workflows import TITLE, chosen, inputs_of_schema, page_order

PACK = "migm-shortcut"  # in the Comfy Registry
PAD, HEADING, GAP = 16, 44, 14  # pixels: inside a group's border, for its title, between nodes
BETWEEN = 26  # pixels between groups
# Text on it has a contrast of 4.5 in the dark theme, and in the light one, which adds a half to the lightness. Links and `code` have
# colours of their own that have not, in one or another renderer: notes do without.
NOTE = {"color": "#333", "bgcolor": "#444"}

# Sockets and widgets of the host's nodes: inputs (name, type, widget or not), outputs (name, type).
HOST_NODES = {
    "SaveImage": ([("images", "IMAGE", False), ("filename_prefix", "STRING", True)], []),
    "LoadImage": ([("image", "COMBO", True)], [("IMAGE", "IMAGE"), ("MASK", "MASK")]),
    "PreviewImage": ([("images", "IMAGE", False)], []),
    "PreviewAny": ([("source", "*", False)], []),
    "EmptyImage": ([("width", "INT", True), ("height", "INT", True), ("batch_size", "INT", True), ("color", "INT", True)], [("IMAGE", "IMAGE")]),
    "ImageCompositeMasked": (
        [("destination", "IMAGE", False), ("source", "IMAGE", False), ("mask", "MASK", False), ("x", "INT", True), ("y", "INT", True), ("resize_source", "BOOLEAN", True)],
        [("IMAGE", "IMAGE")],
    ),
    "SolidMask": ([("value", "FLOAT", True), ("width", "INT", True), ("height", "INT", True)], [("MASK", "MASK")]),
    "MaskComposite": (
        [("destination", "MASK", False), ("source", "MASK", False), ("x", "INT", True), ("y", "INT", True), ("operation", "COMBO", True)],
        [("MASK", "MASK")],
    ),
}


class Graph:
    """Nodes, links and groups of one canvas, of a workflow's or of a subgraph's."""

    def __init__(self):
        self.nodes: list[dict] = []
        self.links: list[tuple] = []  # id, origin, slot, target, slot, type
        self.groups: list[dict] = []

    def note(self, title: str, text: str, size: tuple[int, int]) -> dict:
        return self._add("MarkdownNote", title, size, [], [], [text], {}, **NOTE)

    def node(self, kind: str, size: tuple[int, int], values: Iterable = (), title: str | None = None, models: list[dict] | None = None) -> dict:
        """A node of ours or of the host's; ``values`` of its widgets in the page's order, with what follows a seed."""
        if kind in HOST_NODES:
            inputs, outputs = HOST_NODES[kind]
            sockets = [_input(name, io_type, widget, False) for name, io_type, widget in inputs]
            pack = "comfy-core"
        else:
            schema, pack = schemas()[kind], PACK
            values = list(values)
            inputs = chosen(page_order(inputs_of_schema(schema)), values)
            sockets = [_input(each.name, each.io_type, each.is_widget, each.optional) for each in inputs if not each.is_extra]
            outputs = [(each.display_name, each.io_type) for each in schema.outputs]
        properties = {"cnr_id": pack, "Node name for S&R": kind, **({"models": models} if models else {})}
        return self._add(kind, title, size, sockets, outputs, list(values), properties)

    def _add(self, kind, title, size, inputs, outputs, values, properties, **more) -> dict:
        node = {
            "id": len(self.nodes) + 1,
            "type": kind,
            "pos": [0, 0],
            "size": list(size),
            "flags": {},
            "order": len(self.nodes),
            "mode": 0,
            "inputs": inputs,
            "outputs": [{"localized_name": name, "name": name, "type": io_type, "links": None} for name, io_type in outputs],
            **({"title": title} if title else {}),
            "properties": properties,
            "widgets_values": values,
            **more,
        }
        self.nodes.append(node)
        return node

    def link(self, origin: dict, output: str, target: dict, socket: str) -> None:
        """Join an output and an input by their names."""
        number = len(self.links) + 1
        slot, source = next((i, each) for i, each in enumerate(origin["outputs"]) if each["name"] == output)
        place, sink = next((i, each) for i, each in enumerate(target["inputs"]) if each["name"] == socket)
        source["links"] = [*(source["links"] or []), number]
        sink["link"] = number
        self.links.append((number, origin["id"], slot, target["id"], place, source["type"]))

    def column(self, left: int, top: int, width: int, *groups: tuple[str | None, str, list[dict]]) -> int:
        """Lay groups (title, colour, nodes) one below the other; without a title there is no frame. Its right edge."""
        framed = any(title for title, _, _ in groups)
        for title, colour, nodes in groups:
            y = top + (HEADING if title else 0)
            for node in nodes:
                node["pos"] = [left + (PAD if title else 0), y + TITLE]
                node["size"][0] = width if title or not framed else width + 2 * PAD
                y += TITLE + node["size"][1] + GAP
            bottom = y - GAP + (PAD if title else 0)
            if title:
                bounding = [left, top, width + 2 * PAD, bottom - top]
                self.groups.append({"id": len(self.groups) + 1, "title": title, "bounding": bounding, "color": colour, "font_size": 22, "flags": {}})
            top = bottom + BETWEEN
        return left + width + (2 * PAD if framed else 0)

    def workflow(self, name: str, inputs: list[tuple[dict, str]], outputs: list[dict]) -> dict:
        """As saved. ``inputs``, (node, widget), and ``outputs`` are what app mode shows."""
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK}/{name}")),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": [list(link) for link in self.links],
            "groups": self.groups,
            "config": {},
            "extra": {
                "ds": {"scale": 0.8, "offset": [60, 90]},
                "workflowRendererVersion": "LG",
                "linearData": {"inputs": [[node["id"], widget] for node, widget in inputs], "outputs": [node["id"] for node in outputs]},
            },
            "version": 0.4,
        }

    def subgraph(self, name: str, description: str, aliases: list[str], inputs: list[tuple[str, dict, str]], outputs: list[tuple[str, dict, str]]) -> dict:
        """As a blueprint: a workflow of one node that holds this graph.

        Args:
            inputs: (name outside, node, its input); a widget is shown on the outside.
            outputs: (name outside, node, its output).
        """
        identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK}/subgraphs/{name}"))
        outer_inputs, outer_outputs, promoted, inner_inputs, inner_outputs = [], [], [], [], []
        left, right = min(node["pos"][0] for node in self.nodes) - 260, max(node["pos"][0] + node["size"][0] for node in self.nodes) + 120
        top = min(node["pos"][1] for node in self.nodes)
        links = [dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link)) for link in self.links]
        for slot, (outside, node, socket) in enumerate(inputs):
            place, sink = next((i, each) for i, each in enumerate(node["inputs"]) if each["name"] == socket)
            sink["link"] = len(links) + 1
            links.append(
                {"id": sink["link"], "origin_id": -10, "origin_slot": slot, "target_id": node["id"], "target_slot": place, "type": sink["type"]}
            )
            number = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{identity}/in/{outside}"))
            optional = {"shape": 7} if sink.get("shape") == 7 else {}
            inner_inputs.append(
                {"id": number, "name": outside, "type": sink["type"], "linkIds": [sink["link"]], "label": outside, "pos": [left + 100, top + 20 * slot], **optional}
            )
            widget = {"widget": {"name": outside}} if "widget" in sink else {}
            outer_inputs.append({"label": outside, "name": outside, "type": sink["type"], **optional, **widget, "link": None})
            if widget:
                promoted.append([str(node["id"]), socket])
            if socket == "seed":
                promoted.append([str(node["id"]), "control_after_generate"])
        for slot, (outside, node, output) in enumerate(outputs):
            place, source = next((i, each) for i, each in enumerate(node["outputs"]) if each["name"] == output)
            number = len(links) + 1
            source["links"] = [*(source["links"] or []), number]
            links.append({"id": number, "origin_id": node["id"], "origin_slot": place, "target_id": -20, "target_slot": slot, "type": source["type"]})
            inner_outputs.append(
                {
                    "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{identity}/out/{outside}")),
                    "name": outside,
                    "type": source["type"],
                    "linkIds": [number],
                    "label": outside,
                    "pos": [right + 20, top + 20 * slot],
                }
            )
            outer_outputs.append({"label": outside, "name": outside, "type": source["type"], "links": []})
        outer = len(self.nodes) + 1
        return {
            "revision": 0,
            "last_node_id": outer,
            "last_link_id": 0,
            "nodes": [
                {
                    "id": outer,
                    "type": identity,
                    "pos": [100, 100],
                    "size": [360, 120 + 26 * len(outer_inputs)],
                    "flags": {},
                    "order": 0,
                    "mode": 0,
                    "inputs": outer_inputs,
                    "outputs": outer_outputs,
                    "title": name,
                    "properties": {"cnr_id": PACK, "proxyWidgets": promoted},
                    "widgets_values": [],
                }
            ],
            "links": [],
            "version": 0.4,
            "definitions": {
                "subgraphs": [
                    {
                        "id": identity,
                        "version": 1,
                        "state": {"lastGroupId": len(self.groups), "lastNodeId": outer, "lastLinkId": len(links), "lastRerouteId": 0},
                        "revision": 0,
                        "config": {},
                        "name": name,
                        "inputNode": {"id": -10, "bounding": [left, top - 20, 120, 40 + 20 * len(inner_inputs)]},
                        "outputNode": {"id": -20, "bounding": [right, top - 20, 120, 40 + 20 * len(inner_outputs)]},
                        "inputs": inner_inputs,
                        "outputs": inner_outputs,
                        "widgets": [],
                        "nodes": self.nodes,
                        "groups": [],
                        "links": links,
                        "extra": {"workflowRendererVersion": "LG"},
                        "category": "MIGM",
                        "description": description,
                    }
                ]
            },
            "extra": {"BlueprintDescription": description, "BlueprintSearchAliases": aliases},
        }


def _input(name: str, io_type: str, widget: bool, optional: bool) -> dict:
    """An input socket; round where it may stay open."""
    shape = {"shape": 7} if optional and not widget else {}
    return {"localized_name": name, "name": name, **shape, "type": io_type, **({"widget": {"name": name}} if widget else {}), "link": None}


