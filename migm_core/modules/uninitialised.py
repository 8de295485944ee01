"""torch.nn's layers without initial values: an ``operations`` namespace for models that a file fills.

On the meta device initial values are worse than useless: torch computes their shapes by rules that import its compiler, which
takes seconds and 70 MiB, sets an environment variable and makes a folder.
"""

from torch import nn

__all__ = ["Conv2d", "Embedding", "GroupNorm", "Linear"]


class _Uninitialised:
    def reset_parameters(self) -> None:
        """Leave the parameters as they were allocated."""


class Linear(_Uninitialised, nn.Linear):
    """nn.Linear, whose weight and bias are to be loaded."""


class Embedding(_Uninitialised, nn.Embedding):
    """nn.Embedding, whose weight is to be loaded."""


class Conv2d(_Uninitialised, nn.Conv2d):
    """nn.Conv2d, whose weight and bias are to be loaded."""


class GroupNorm(_Uninitialised, nn.GroupNorm):
    """nn.GroupNorm, whose weight and bias are to be loaded."""
