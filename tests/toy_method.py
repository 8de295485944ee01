"""A method that nobody needs, in one class and its run: what a test adds to the registry."""

from dataclasses import dataclass

from migm_core.sampling.backbone import at_positions
from migm_core.sampling.methods import Method
from migm_core.sampling.setting import setting


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
