"""The models of a soak: small ones in the host's folder, each file in two variants, and how one takes the other's place."""

import os
import shutil
from pathlib import Path

import torch
from hosts import MASKGIT, MASKGIT_HEAD, copy_maskgit
from small_model import edit_json, edit_tensors, make_small_head, make_small_model, small_config

FOLDER = "soak"  # in the host's folder of models
BASE, HEAD, MASKGIT_BASE, MASKGIT_SHORTCUT = "lumina/model.safetensors", "lumina-head.safetensors", MASKGIT, MASKGIT_HEAD
SIZES = [[64, 64], [96, 32]]  # that input pictures take
WORDS = 22  # of the vocabulary, the first: made likelier, so that answers have words


class Files:
    """The files that are swapped, by their paths in the folder.

    Attributes:
        folder: where they lie for the host.
        now: by a file's path, which of its two variants lies there.
    """

    def __init__(self, models: Path, made: Path):
        """Make them.

        Args:
            models: the host's folder of models.
            made: an empty folder for the variants.
        """
        self.folder, self.made = models / FOLDER, made
        self.now = dict.fromkeys((BASE, HEAD, MASKGIT_BASE, MASKGIT_SHORTCUT), 0)
        for variant in (0, 1):
            self._make(made / str(variant), variant)
        shutil.copytree(made / "0", self.folder)

    def _make(self, folder: Path, variant: int) -> None:
        model = make_small_model(folder, seed=variant)
        model.folder.rename(folder / "lumina")
        model.head.unlink()
        edit_json(folder / "lumina/generation_config.json", trained={"sizes": SIZES})
        edit_tensors(folder / BASE, lambda tensors: tensors["model.transformer.ff_out.weight"][:WORDS].mul_(4))
        make_small_head(folder / HEAD, small_config(), seed=1 + variant)
        if variant:  # what is not swapped is the same
            shutil.rmtree(folder / "lumina/vqvae")
            shutil.copytree(self.made / "0/lumina/vqvae", folder / "lumina/vqvae")
        copy_maskgit(folder)
        if variant:
            for name in (MASKGIT_BASE, MASKGIT_SHORTCUT):
                torch.save(scaled(torch.load(folder / name, weights_only=True)), folder / name)

    def swap(self, name: str) -> None:
        """Put a file's other variant in its place as a file is replaced safely: a new one, renamed. What is mapped stays as it was."""
        self.now[name] = 1 - self.now[name]
        place = self.folder / name
        new = place.with_name(place.name + ".new")
        shutil.copyfile(self.made / str(self.now[name]) / name, new)
        os.replace(new, place)

    def variants(self, names: tuple[str, ...]) -> dict[str, int]:
        return {name: self.now[name] for name in names}

    def path(self, name: str, variant: int) -> Path:
        return self.made / str(variant) / name


def scaled(value):
    """What torch.save wrote, with every matrix 1.3 times as large."""
    if isinstance(value, dict):
        return type(value)((key, scaled(each)) for key, each in value.items())
    return value * 1.3 if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() > 1 else value
