"""Every picture of a scene, as image codes: what a prompt leaves open, and what the cells already known leave of that."""

from itertools import product

import numpy as np
import torch
from torch import Tensor

from .patches import PatchCodebook
from .scenes import BACKGROUNDS, COLOURS, GRID, SHAPES, SIZES, Scene, Thing, placements, render


class ScenePictures:
    """Draws scenes in codes, from the codes of each object on each background.

    Attributes:
        codebook: gives the codes.
    """

    def __init__(self, codebook: PatchCodebook):
        self.codebook = codebook
        things = [Thing(*words) for words in product(SIZES, COLOURS, SHAPES)]
        scenes = [Scene((thing,), background) for thing in things for background in BACKGROUNDS]
        images = np.stack([render(scene, [(0, 0)]) for scene in scenes])
        codes = codebook.codes(torch.from_numpy(images).permute(0, 3, 1, 2))
        sides = [SIZES[scene.things[0].size] for scene in scenes]
        self._things = {(s.things[0], s.background): c[:side, :side] for s, c, side in zip(scenes, codes, sides)}
        self._backgrounds = {scene.background: code[-1, -1] for scene, code in zip(scenes, codes)}

    def of(self, scene: Scene) -> Tensor:
        """All placements of a scene, each as likely as the others: int64 (n, GRID, GRID)."""
        spots = placements(scene)
        pictures = self._backgrounds[scene.background].repeat(len(spots), GRID, GRID)
        for picture, places in zip(pictures, spots):
            for thing, (x, y) in zip(scene.things, places):
                codes = self._things[thing, scene.background]
                picture[y : y + len(codes), x : x + len(codes)] = codes
        return pictures


def consistent(pictures: Tensor, codes: Tensor, unknown: Tensor) -> Tensor:
    """Those of the pictures (n, H, W) that agree with the known cells of ``codes`` (H, W)."""
    return pictures[((pictures == codes) | unknown).flatten(1).all(1)]
