"""Write the example workflows and the subgraphs, by the nodes' schemas: python tests/make_workflows.py

After a change of a node's inputs, and before tests/make_thumbnails.py, which generates what the workflows say.
"""

import json

import demo_workflows
import lumina_workflows
import maskgit_workflow
from nodes_without_host import REPOSITORY
from workflows import FOLDER, SUBGRAPHS

WORKFLOWS = (*demo_workflows.WORKFLOWS, *lumina_workflows.WORKFLOWS, *maskgit_workflow.WORKFLOWS)


def write(path, graph: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(graph, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path.relative_to(REPOSITORY))


if __name__ == "__main__":
    for make in WORKFLOWS:
        write(FOLDER / f"{make.__name__}.json", make())
    for make in demo_workflows.SUBGRAPHS:
        graph = make()
        write(SUBGRAPHS / f"{graph['nodes'][0]['title']}.json", graph)
