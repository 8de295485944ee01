"""The stages of the recipe, one function each. They meet in a folder: what one has trained is a file there that the next one reads."""

from .evaluating import evaluation
from .judging import reader
from .model_of_classes import class_head, classes
from .other_tasks import tasks
from .pictures import tokenizer
from .text_to_image import base, head, trajectories

STAGES = {
    "reader": reader,
    "tokenizer": tokenizer,
    "base": base,
    "tasks": tasks,
    "trajectories": trajectories,
    "head": head,
    "classes": classes,
    "class-head": class_head,
    "evaluation": evaluation,
}
