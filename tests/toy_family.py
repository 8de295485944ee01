"""A family of two tensors: what a test adds to the registry."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn

from migm_core.checkpoints import Checkpoint, CheckpointError
from migm_core.checkpoints.convert import as_it_is
from migm_core.families.family import Family
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.sampling.backbone import Branch
from migm_core.trained import Trained


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
