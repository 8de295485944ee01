"""Every picture of a scene, as image codes: what a prompt leaves open, and what the tokens already known leave of that."""

from itertools import product

import numpy as np
import torch
from torch import Tensor

from .patches import PatchCodebook
from .scenes import BACKGROUNDS, COLOURS, GRID, SHAPES, SIZES, Scene, SceneObject, placements, render


class ScenePictures:
    """Pictures of scenes in codes, from the codes of each object on each background.

    Attributes:
        codebook: gives the codes.
    """

    def __init__(self, codebook: PatchCodebook):
        self.codebook = codebook
        objects = [SceneObject(*words) for words in product(SIZES, COLOURS, SHAPES)]
        scenes = [Scene((item,), background) for item in objects for background in BACKGROUNDS]
        images = np.stack([render(scene, [(0, 0)]) for scene in scenes])
        codes = codebook.codes(torch.from_numpy(images).permute(0, 3, 1, 2))
        sides = [SIZES[scene.objects[0].size] for scene in scenes]
        self._objects = {(s.objects[0], s.background): c[:side, :side] for s, c, side in zip(scenes, codes, sides)}
        self._backgrounds = {scene.background: code[-1, -1] for scene, code in zip(scenes, codes)}

    def of(self, scene: Scene) -> Tensor:
        """All placements of a scene, each as likely as the others: int64 (n, GRID, GRID)."""
        spots = placements(scene)
        pictures = self._backgrounds[scene.background].repeat(len(spots), GRID, GRID)
        for picture, placement in zip(pictures, spots):
            for item, (x, y) in zip(scene.objects, placement):
                codes = self._objects[item, scene.background]
                picture[y : y + len(codes), x : x + len(codes)] = codes
        return pictures


def consistent(pictures: Tensor, codes: Tensor, masked: Tensor) -> Tensor:
    """Those of the pictures (n, H, W) that agree with the known tokens of ``codes`` (H, W)."""
    return pictures[((pictures == codes) | masked).flatten(1).all(1)]
