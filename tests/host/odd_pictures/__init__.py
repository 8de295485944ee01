"""A pack of nodes for tests: pictures and masks that the host's own nodes do not give, but others may."""

import torch

NOT_A_NUMBER = float("nan")
KINDS = {
    "nan": lambda: torch.full((1, 64, 64, 3), NOT_A_NUMBER),
    "infinite": lambda: torch.full((1, 64, 64, 3), float("inf")),
    "two": lambda: torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0)),
    "three": lambda: torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(1)),
    "too many": lambda: torch.zeros(65, 32, 32, 3),
    "none": lambda: torch.zeros(0, 64, 64, 3),
    "no pixels": lambda: torch.zeros(1, 0, 64, 3),
    "2x1000": lambda: torch.zeros(1, 1000, 2, 3),
    "1x1": lambda: torch.zeros(1, 1, 1, 3),
    "alpha": lambda: torch.rand(1, 64, 64, 4, generator=torch.Generator().manual_seed(2)),
    "two channels": lambda: torch.zeros(1, 64, 64, 2),
    "a mask": lambda: torch.zeros(64, 64),
    "plain": lambda: torch.full((1, 64, 64, 3), 0.5),
}


class OddPicture:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"kind": ("STRING", {"default": "plain"})}})
    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, kind):
        """The picture, and its first channel as a mask."""
        image = KINDS[kind]()
        return image, image[..., 0] if image.dim() == 4 else image


NODE_CLASS_MAPPINGS = {"OddPicture": OddPicture}
