"""A workflow of MaskGIT. It is no example until a model comes with the extension: tests run it with theirs."""

from graphs import Graph
from workflow_parts import APART, LOAD, LOOK, MAKE, SAY, look

MASKGIT = [15, 8, 2.8, "arccos", True, 1.0, 7.0, "linear", "shortcut"]  # steps, budget, cfg, the rule's, method: the published ones


def class_to_image(model: str, head: str, classes: str = "") -> dict:
    """Images of classes, with a MaskGIT model and its head."""
    graph = Graph()
    loader = graph.node("MIGMLoadMaskGIT", (0, 110), [model, "auto"])
    of_head = graph.node("MIGMLoadShortcutHead", (0, 86), [head])
    class_ = graph.node("MIGMMaskGITClass", (0, 180), ["golden retriever", classes])
    sampler = graph.node("MIGMMaskGITSampler", (0, 700), [7, "fixed", *MASKGIT])
    save = graph.node("SaveImage", (0, 340), ["migm"])
    report = graph.node("PreviewAny", (0, 250), title="Report")
    graph.link(loader, "model", sampler, "model")
    graph.link(of_head, "head", sampler, "head")
    graph.link(class_, "classes", sampler, "classes")
    look(graph, sampler, save, report)
    x = graph.column(0, 0, 300, ("1. Load", LOAD, [loader, of_head]), ("2. Class", SAY, [class_]))
    x = graph.column(x + APART, 0, 330, ("3. Generate", MAKE, [sampler]))
    graph.column(x + APART, 0, 330, ("4. Look", LOOK, [save, report]))
    return graph.workflow("class_to_image", [(class_, "class_name"), (sampler, "seed"), (sampler, "budget")], [save])
