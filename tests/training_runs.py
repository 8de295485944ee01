"""A few steps of training on models of a few thousand parameters, which tests of training share: what they record and learn from."""

import copy
from dataclasses import fields
from pathlib import Path

import torch
from small_model import edit_json, make_small_model

from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.head import ShortcutHead, head_for
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.pipeline import Pipeline
from migm_core.training.collect import Collection
from migm_core.training.distributed import World
from migm_core.training.head import Objective, train_head, zero_init
from migm_core.training.trajectories import Shard, Shards

PROMPTS = ["a red duck at night", "a blue kite by day", "a yellow tent in fog"]  # of one length
SETTINGS = {"width": 64, "height": 64, "steps": 6, "budget": 3, "guidance_scale": 1.0, "temperature": 1.0}


def record(folder: Path) -> Pipeline:
    """Write ``folder/model`` and ``folder/trajectories``; gives the model, loaded."""
    small = make_small_model(folder)
    edit_json(small.folder / "generation_config.json", **SETTINGS)
    pipeline = Pipeline.load(small.folder, None, dtype="fp32", device="cpu")
    collect(pipeline, folder / "trajectories", batch=2)
    return pipeline


def collect(pipeline: Pipeline, folder: Path, prompts=PROMPTS, *, keep_features: bool = True, world: World = World(), **asked) -> None:
    """Record runs of six steps with guidance."""
    settings = pipeline.settings(**{"steps": 6, "guidance_scale": 1.0, "temperature": 1.0, "method": "vanilla", **asked})
    Collection(pipeline, prompts, folder, settings, keep_features=keep_features, world=world).record()


def trajectories(folder: Path) -> list[Shard]:
    return Shards.open(folder, None)


def learned(folder: Path, kept: list, base: Lumina, *, head: ShortcutHead | None = None, ratio: float = 2, world: World = World(), **options) -> ShortcutHead:
    """A head that was trained on runs."""
    if head is None:
        torch.manual_seed(0)
        head = ShortcutHead(head_for(base.config, ratio))
        zero_init(head)
    objective = Objective(**{each.name: options.pop(each.name) for each in fields(Objective) if each.name in options})
    return train_head(folder, kept, base, copy.deepcopy(head), LuminaRule(1.0), objective=objective, world=world, **options)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def learned_head(base: Lumina) -> ShortcutHead:
    """A head with weights that move every feature."""
    torch.manual_seed(3)
    return ShortcutHead(head_for(base.config, 2))
