"""The workflow of the bundled MaskGIT model, and a plain one for any other."""

from graphs import Graph
from workflow_parts import APART, LOAD, LOOK, MAKE, SAY, look

BUNDLED = "bundled demo (MaskGIT)"
CLASSES = ("clear sunset over lavender", "misty dawn over snow", "clear day over grass", "cloudy day over sand")
SEED = 2  # the first that gives what the classes say: tests/tools/choose_seeds.py
MASKGIT = [15, 7, 2.8, "arccos", True, 1.5, 7.0, "linear", "shortcut"]  # steps, budget, cfg, the rule's, method: the bundled model's own

NOTE = """Press **Run**: nothing to download, no GPU needed. A MaskGIT model takes no words, but classes. It generates an image of each, four in about 10 seconds on two CPU cores.

The bundled model's classes are a weather, a time of day and a ground: *misty dawn over snow*. What stands there it chooses itself.

## Try

- Other classes in **several**, one a line. The list **class_name** has all 48, before those of ImageNet; it counts where **several** is empty.
- **budget** 4 or 10: how many of the 15 steps run the whole model.
- The published MaskGIT models of ImageNet's 1,000 classes: **MIGM Load MaskGIT**'s help says where they belong.
"""


def class_to_image(name: str, model: str, head: str, class_name: str, several: str = "", note: str = "") -> dict:
    """Images of classes, with a MaskGIT model and its head."""
    graph = Graph()
    notes = [graph.note("Start here", note, (0, 470))] if note else []
    loader = graph.node("MIGMLoadMaskGIT", (0, 110), [model, "auto"])
    of_head = graph.node("MIGMLoadShortcutHead", (0, 86), [head])
    class_ = graph.node("MIGMMaskGITClass", (0, 220), [class_name, several])
    sampler = graph.node("MIGMMaskGITSampler", (0, 700), [SEED, "fixed", *MASKGIT])
    save = graph.node("SaveImage", (0, 340), ["migm_classes"])
    report = graph.node("PreviewAny", (0, 250), title="Report")
    graph.link(loader, "model", sampler, "model")
    graph.link(of_head, "head", sampler, "head")
    graph.link(class_, "classes", sampler, "classes")
    look(graph, sampler, save, report)
    x = graph.column(0, 0, 310, (None, "", notes)) + APART if notes else 0
    x = graph.column(x, 0, 300, ("1. Load", LOAD, [loader, of_head]), ("2. Classes", SAY, [class_]))
    x = graph.column(x + APART, 0, 330, ("3. Generate", MAKE, [sampler]))
    graph.column(x + APART, 0, 330, ("4. Look", LOOK, [save, report]))
    return graph.workflow(name, [(class_, "class_name"), (class_, "several"), (sampler, "seed"), (sampler, "budget")], [save])


def maskgit_classes() -> dict:
    return class_to_image("maskgit_classes", BUNDLED, BUNDLED, CLASSES[0], "\n".join(CLASSES), NOTE)


WORKFLOWS = (maskgit_classes,)
