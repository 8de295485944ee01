"""The model's own pictures that came out right, with the order in which it drew them.

Random masks seldom show the states on which a run turns, such as the first cell of an object that two places would suit. The
model's own runs are made of them; learning from those that ended right teaches it which of its choices go together (expert
iteration, arXiv 1705.08439).
"""

from collections import defaultdict, deque

import numpy as np
import torch
from torch import Tensor

from ..canvas import Canvas
from ..models.lumina import Lumina
from ..prompts import PromptEncoder
from ..sampling.methods import Vanilla
from ..sampling.sampler import sample
from ..sampling.sequence import Branch
from .examples import Example
from .patches import PatchCodebook
from .scenes import Scene, placements, random_scene, render


class OwnRuns:
    """The latest right pictures, by number of objects: each an example for every step of its run.

    Args:
        temperature: of the runs; above the one that suits drawing, so that their states differ.
        keep: pictures of each number of objects.
    """

    def __init__(self, codebook: PatchCodebook, encoder: PromptEncoder, *, temperature: float = 0.4, keep: int = 150):
        self.codebook, self.encoder, self.temperature = codebook, encoder, temperature
        self.kept: dict[int, deque[list[Example]]] = defaultdict(lambda: deque(maxlen=keep))

    def add(self, model: Lumina, objects: int, count: int, rng: np.random.Generator) -> float:
        """Let the model draw ``count`` random scenes, one cell a step; keep the right ones and return their share."""
        scenes = [random_scene(rng, objects, "train") for _ in range(count)]
        rendered = [possible_codes(scene, self.codebook) for scene in scenes]
        canvas = Canvas.empty(count, *rendered[0].shape[1:], torch.device("cpu"))
        unknown = [canvas.unknown]
        drawn = sample(
            model,
            [Branch(torch.stack([self.encoder.prompt(scene.caption) for scene in scenes]), 1.0)],
            canvas,
            Vanilla(),
            steps=canvas.unknown[0].numel(),
            temperature=self.temperature,
            generators=[torch.Generator().manual_seed(int(rng.integers(2**62))) for _ in scenes],
            callback=lambda report: unknown.append(report.canvas.unknown),
        )
        right = [bool((codes == possible).all((1, 2)).any()) for codes, possible in zip(drawn.codes, rendered)]
        for place in (i for i in range(count) if right[i]):
            codes = drawn.codes[place].clone()  # outside of inference mode, so that a loss may use it
            self.kept[objects].append([Example(scenes[place].caption, codes, state[place].clone()) for state in unknown[:-1]])
        return sum(right) / count

    def draw(self, objects: int, count: int, rng: np.random.Generator) -> list[Example]:
        """Random pictures at random steps: ``count`` of them, or as many as there are."""
        kept = self.kept[objects]
        return [kept[i][rng.integers(len(kept[i]))] for i in rng.permutation(len(kept))[:count]]


def possible_codes(scene: Scene, codebook: PatchCodebook) -> Tensor:
    """The codes of every picture that shows the scene, int64 (n, H, W)."""
    images = np.stack([render(scene, spots) for spots in placements(scene)])
    return codebook.codes(torch.from_numpy(images).permute(0, 3, 1, 2))
