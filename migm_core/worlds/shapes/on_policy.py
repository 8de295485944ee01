"""On-policy states: canvases that the model's own runs go through, with what each may still become.

Random masks seldom show the states on which a run turns, such as the first token of an object that two spots would suit. The
model's own runs are made of them (DAgger, arXiv 1011.0686).
"""

from collections import defaultdict, deque

import numpy as np
import torch
from torch import Tensor

from ...canvas import Canvas
from ...families.lumina_dimoo.backbone import Lumina
from ...families.lumina_dimoo.prompts import PromptEncoder
from ...families.lumina_dimoo.rule import LuminaRule
from ...sampling.backbone import Branch
from ...sampling.loop import StepReport, sample
from ...sampling.noise import SeededNoise
from ...training.trajectories import Recording
from .examples import Example, divergence
from .pictures import ScenePictures, consistent
from .scenes import Scene, random_scene


class OnPolicyStates:
    """The latest runs, by number of objects.

    Args:
        temperature: of the runs; above the one that suits generating, so that their states differ.
        keep: runs of each number of objects.

    Attributes:
        kept: an example for every step of each run up to its first error.
        errors: how far the model was from what is possible there, float64 (examples,): nats, over the masked tokens.
    """

    def __init__(self, pictures: ScenePictures, encoder: PromptEncoder, *, temperature: float = 0.6, keep: int = 150):
        self.pictures, self.encoder, self.temperature = pictures, encoder, temperature
        self.kept: dict[int, deque[list[Example]]] = defaultdict(lambda: deque(maxlen=keep))
        self.errors: dict[int, deque[np.ndarray]] = defaultdict(lambda: deque(maxlen=keep))

    @torch.no_grad()
    def add(self, model: Lumina, objects: int, count: int, rng: np.random.Generator) -> float:
        """Let the model generate ``count`` random scenes, one token a step, and return its accuracy: the share that came out right."""
        scenes = [random_scene(rng, objects, "train") for _ in range(count)]
        pictures = [self.pictures.of(scene) for scene in scenes]
        canvas = Canvas.empty(count, *pictures[0].shape[1:], torch.device("cpu"))
        states = [canvas]

        def watch(report: StepReport) -> None:
            states.append(report.canvas)

        prompts = torch.stack([self.encoder.prompt(scene.caption) for scene in scenes])
        tokens = canvas.masked[0].numel()
        generators = [torch.Generator().manual_seed(int(rng.integers(2**62))) for _ in scenes]
        method = Recording(torch.float32)
        sample(model, [Branch(prompts, 1.0)], canvas, method, steps=tokens, rule=LuminaRule(self.temperature), noise=SeededNoise(generators), callback=watch)
        features, sequence = method.run.features_of_steps[0], method.run.sequences[0]
        right = 0
        for image, (scene, possible) in enumerate(zip(scenes, pictures)):
            examples, finished = _until_wrong(scene, possible, [(s.codes[image].clone(), s.masked[image].clone()) for s in states])
            logits = [model.code_logits(f[image, sequence.positions][e.masked.flatten()]) for f, e in zip(features, examples)]
            self.kept[objects].append(examples)
            self.errors[objects].append(np.array([divergence(x, [e]).item() for x, e in zip(logits, examples)]))
            right += finished
        return right / count

    def sample(self, objects: int, count: int, rng: np.random.Generator) -> list[Example]:
        """Different random runs, each at a random step: ``count`` of them, or as many as there are.

        Half of the chance is spread evenly, half in proportion to the errors: most steps teach nothing more.
        """
        kept, errors = self.kept[objects], self.errors[objects]
        total = sum(error.sum() for error in errors) or 1.0
        chances = [0.5 / len(kept) / len(error) + 0.5 * error / total for error in errors]
        of_runs = np.array([chance.sum() for chance in chances])
        runs = rng.choice(len(kept), min(count, len(kept)), replace=False, p=of_runs / of_runs.sum()) if kept else []
        return [kept[i][rng.choice(len(kept[i]), p=chances[i] / of_runs[i])] for i in runs]


def _until_wrong(scene: Scene, possible: Tensor, states: list[tuple[Tensor, Tensor]]) -> tuple[list[Example], bool]:
    """An example for each state (codes, masked) that has masked tokens, until no picture is possible; whether one was to the end."""
    examples = []
    for codes, masked in states:
        possible = consistent(possible, codes, masked)
        if not len(possible):
            return examples, False
        if masked.any():
            examples.append(Example(scene.caption, codes, masked, possible))
    return examples, True
