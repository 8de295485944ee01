"""Nodes and numbers that several workflows have in common."""

from graphs import Graph

BUNDLED = "bundled demo"
APART = 24  # pixels between columns
PROMPT_HEIGHT = 300  # pixels: older hosts show the inputs of all tasks
TEXT = "text-to-image"  # the task of MIGM Prompt
OTHER_HEAD = """The head was trained for text to image only. **Report** says how well it serves here: *good*, *fair* or *poor*. Where it is poor, raise **budget**, or set **method** to vanilla.
"""
LOAD, SAY, MAKE, LOOK = "#3f789e", "#3f8f4f", "#a1309b", "#3f789e"  # colours of groups


def loaders(graph: Graph, model: str = BUNDLED, head: str = BUNDLED, models: list[dict] | None = None) -> tuple[dict, dict]:
    """A model and its head, by their names in the dropdowns; ``models`` are files that the page can offer to download."""
    return graph.node("MIGMLoadLumina", (0, 110), [model, "auto"]), graph.node("MIGMLoadShortcutHead", (0, 110 if models else 86), [head], models=models)


def join(graph: Graph, sampler: dict, model: dict, head: dict, prompt: dict) -> None:
    """Say a sampler what to work with."""
    graph.link(model, "model", sampler, "model")
    graph.link(prompt, "prompt", sampler, "prompt")
    graph.link(head, "head", sampler, "head")


def look(graph: Graph, sampler: dict, save: dict, report: dict) -> None:
    """Save what a sampler generates, and show its report."""
    graph.link(sampler, "image", save, "images")
    graph.link(sampler, "report", report, "source")
