"""What the sampling loop asks of a method: a class with its settings and costs, and a run that computes features."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ..backbone import Backbone, BackboneConfig, Head, HeadConfig, Sequence
from ..setting import check_settings, settings_of


@dataclass(frozen=True)
class Step:
    """Where the loop stands before a step.

    Attributes:
        index: 0..steps-1.
        masked: tokens that are masked, indices in reading order, int64 (B, m), ascending.
        new: tokens that the last step that ran unmasked, int64 (B, n), ascending; n = 0 before the first. Skipped steps do not run.
        branches: how many branches, from the first, count at this step; None for all.
        weights: of the branches' logits at this step; None for their own.
    """

    index: int
    masked: Tensor
    new: Tensor
    branches: int | None = None
    weights: list[float] | None = None


class MethodRun(Protocol):
    """The state of one run; it dies with it. One that measures itself has ``measured``, see ``loop.StepReport``."""

    def features(self, step: Step) -> list[Tensor]:
        """For each branch that counts, the features at the masked tokens, (B, m, width); those of others are ignored.

        At a full step they follow from the tokens alone.
        """


class Method(ABC):
    """A frozen dataclass without state. Its fields made by ``setting`` are what users set: in Python, on the command line and in the nodes.

    Attributes:
        name: as users write it.
        about: what it does, in a few words.
        needs_head: whether it takes a shortcut head, as the field ``head``.
        compiles: whether it runs with compiled blocks.
        own_steps: its own kinds of step, each with a sentence that says what happens there.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    needs_head: ClassVar[bool] = False
    compiles: ClassVar[bool] = True
    own_steps: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __post_init__(self):
        """Raise a ValueError that names the first setting out of its range."""
        check_settings(self)

    @classmethod
    def settings(cls) -> dict[str, Field]:
        """The fields that its users may set, by name."""
        return settings_of(cls)

    @classmethod
    def build(cls, options: Mapping[str, Any], head: Head | None = None, of_family: Mapping[str, Any] = MappingProxyType({})) -> "Method":
        """Build a method from options, of which None counts as not given. Options of other methods are ignored.

        Args:
            of_family: fields that a family fixes for its models; those that the method lacks are ignored.

        Raises:
            ValueError: a value out of its range.
        """
        chosen = {name: options[name] for name in cls.settings() if options.get(name) is not None}
        chosen |= {each.name: of_family[each.name] for each in fields(cls) if each.name in of_family}
        return cls(**chosen, **({"head": head} if cls.needs_head else {}))

    def probed(self) -> "Method":
        """The same method, measuring how far its guesses are off where it can, see ``probe``. What it samples stays the same."""
        return self

    @abstractmethod
    def kinds(self, steps: int) -> list[str]:
        """Name the kind of each step of a run: "full" where the base model computes all features, else one of ``own_steps``.

        Raises:
            ValueError: a setting does not fit the number of steps.
        """

    @abstractmethod
    def start(self, backbone: Backbone, sequences: list[Sequence], mask_ratios: list[float]) -> MethodRun:
        """Start a run.

        Args:
            mask_ratios: for each step, the head's input, as the rule defines it: usually masked tokens before it / masked tokens at the start.
        """

    def kept_bytes(self, config: BackboneConfig, dtype: torch.dtype, lengths: list[int]) -> int:
        """Bytes that a run keeps from step to step.

        Args:
            lengths: positions of each branch, times the images of the batch.
        """
        return 0

    def step_macs(self, kind: str, config: BackboneConfig, head: HeadConfig | None, positions: int) -> int:
        """Multiply-adds of the features of one sequence at a step of one of the ``own_steps``."""
        raise NotImplementedError(f"{self.name} does not say what a {kind} step costs.")


def kinds_of(method: Method, steps: int) -> list[str]:
    """The kinds of a run's steps, held against what a method of somebody's own may return.

    Raises:
        ValueError: they are not one name a step, or a setting does not fit the number of steps.
    """
    kinds = method.kinds(steps)
    if not isinstance(kinds, (list, tuple)) or len(kinds) != steps or not all(isinstance(kind, str) for kind in kinds):
        raise ValueError(f"The method {method.name} gives no kind for each of {steps} steps. Have its kinds return so many names, \"full\" or those of own_steps.")
    return list(kinds)


def features_of(method: Method, run: MethodRun, step: Step, branches: int, width: int) -> list[Tensor]:
    """A step's features, held against what a method of somebody's own may return: shapes and dtypes only, so that nothing waits for the device.

    Args:
        branches: how many count; width: of a feature.

    Raises:
        ValueError: they are others than ``MethodRun.features`` says.
    """
    features = run.features(step) if hasattr(run, "features") else None
    wanted = (*step.masked.shape, width)
    right = isinstance(features, (list, tuple)) and len(features) >= branches and all(_is_feature(each, wanted, step.masked.device) for each in features[:branches])
    if not right:
        raise ValueError(
            f"The method {method.name} gives other features at step {step.index} than it should. Have its run return a list of {branches}, "
            f"one a branch, each {list(wanted)} on {step.masked.device} in the model's dtype."
        )
    return features


def _is_feature(value: object, shape: tuple[int, ...], device: torch.device) -> bool:
    """Of float64 no model here makes any; which of the narrower dtypes it is, the host may decide layer by layer."""
    return isinstance(value, Tensor) and tuple(value.shape) == shape and value.device == device and value.is_floating_point() and value.dtype != torch.float64


def unknown_setting(name: str, known: list[str]) -> ValueError:
    """The error for an unknown setting. It names the nearest known one."""
    near = difflib.get_close_matches(name, known, 1)
    return ValueError(f"There is no setting {name!r}. " + (f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(known)}."))
