"""What the rest of the engine asks of a family of models. To add one: write its folder, and name it in ``families.FAMILIES``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from .. import arguments
from ..checkpoints.gguf_file import GgufNames
from ..checkpoints.names import Part
from ..checkpoints.source import Reader, TensorSource
from ..checkpoints.write import Pending
from ..modules.residual_head import ResidualHeadConfig
from ..sampling.backbone import BackboneConfig, Branch, Head, HeadConfig
from ..sampling.rule import Rule
from ..trained import Trained
from .request import Encode, TaskRequest, TaskSizes

if TYPE_CHECKING:
    from ..checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True)
class HeadTraining:
    """How a family's published head was trained, where families differ.

    Attributes:
        lr, min_lr: the learning rate at first, and at last.
        masked_only: the squared error counts at the masked positions only.
        one_branch: each step learns one guidance branch, not both.
    """

    lr: float
    min_lr: float
    masked_only: bool = False
    one_branch: bool = False


class Family(ABC):
    """One kind of model: how its files look, what they become, and how a request becomes guidance branches.

    Attributes:
        name: as users write it; title: as they read it.
        config, head: the classes of its base's config and of a head's.
        backbone: the class of its base model: ``backbone(config, dtype=..., device=..., operations=...)``.
        rule: the class of its sampling settings.
        defaults: the published settings of a run: width, height, steps, budget, guidance_scale, and the rule's.
        method_fields: what methods do otherwise for its models, see ``Method.build``.
        takes: what a request names: "text" or "classes".
        tasks: what its models do with words and pictures, by name, as ``lumina_dimoo.tasks.Task`` says it.
        text_settings: the class of the settings of its answers; None where it gives none.
        head_training: how its head was trained.
        trajectories: the class that reads and writes recorded runs in a published form, see ``training.trajectories.Shards``; None where there is none.
        base_prefix: what stands before the base's names in its published files, for messages.
        gguf_names: what llama.cpp calls its base's tensors, where it knows the architecture.
        base_mark, whole_mark, head_mark: ends of tensors' names by which a file is known without opening it as a model: a base's file, one
            with all of a checkpoint in it, which has both, and a head's.
        head_kind: what the metadata of a head's file calls it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    config: ClassVar[type]
    head: ClassVar[type]
    backbone: ClassVar[type]
    rule: ClassVar[type]
    defaults: ClassVar[Mapping[str, Any]]
    method_fields: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    takes: ClassVar[str] = "text"
    tasks: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    text_settings: ClassVar[type | None] = None
    head_training: ClassVar[HeadTraining]
    trajectories: ClassVar[type | None] = None
    base_prefix: ClassVar[str] = ""
    gguf_names: ClassVar[GgufNames | None] = None
    base_mark: ClassVar[str]
    whole_mark: ClassVar[str]
    head_mark: ClassVar[str]
    head_kind: ClassVar[str]

    @abstractmethod
    def parts(self, names: list[str]) -> dict[Part, str]:
        """The parts of this family that a file with such tensor names has, each with what stands before its published names; empty for others' files."""

    @abstractmethod
    def matches(self, path: Path, source: TensorSource | None) -> bool:
        """Whether a checkpoint is of this family.

        Args:
            path: a folder or a file.
            source: what it opens as; None where it is a folder that no common layout explains.
        """

    @abstractmethod
    def load(
        self,
        path: Path,
        source: TensorSource | None,
        *,
        dtype,
        device,
        for_device,
        output_rows=None,
        operations=nn,
        image_operations=nn,
        reader: Reader | None = None,
    ) -> Checkpoint:
        """Load a checkpoint; arguments and errors as ``checkpoints.load_checkpoint``."""

    @abstractmethod
    def is_head(self, source: TensorSource) -> bool:
        """Whether a file is a shortcut head of this family."""

    @abstractmethod
    def head_config(self, source: TensorSource, base: BackboneConfig | None = None) -> HeadConfig:
        """A head's sizes, every key checked; against those of a base where one is given.

        Raises:
            CheckpointError: it is no head, an incomplete one, or one for another base.
        """

    @abstractmethod
    def build_head(self, source: TensorSource, base: BackboneConfig, *, dtype=None, device="cpu", operations=nn) -> Head:
        """A head from its tensors.

        Raises:
            CheckpointError: as ``head_config``.
        """

    def new_head(self, base: BackboneConfig, ratio: float) -> Head:
        """An untrained head of the published architecture at a base's size, ``ratio`` times narrower, in float32.

        Raises:
            ValueError: the base's sizes and the ratio do not go together.
        """
        raise ValueError(f"Heads of {self.title} cannot be trained from new weights. Begin with those of a head.")

    def widened_head(self, head: Head, ratio: float) -> Head:
        """A head of another ratio that computes about what a narrower one does.

        Raises:
            ValueError: that is not possible.
        """
        raise ValueError(f"Heads of {self.title} cannot be made wider. Leave the ratio out to go on with that of the head.")

    def head_metadata(self, config: ResidualHeadConfig) -> dict[str, str]:
        """What a head's file says of itself."""
        sizes = {"base_d_model": str(config.d_model), "blocks": str(config.n_blocks), "bottleneck_ratio": f"{config.bottleneck_ratio:g}"}
        switches = {each.name: str(getattr(config, each.name)).lower() for each in fields(config) if isinstance(getattr(config, each.name), bool)}
        return {"kind": self.head_kind, **sizes, **switches}

    def head_tensors(self, head: Head) -> Mapping[str, Tensor]:
        """A head's tensors under the names that its files have."""
        return head.state_dict()

    @abstractmethod
    def describe(self, path: Path, source: TensorSource | None) -> list[str] | None:
        """A checkpoint, a head or an image tokenizer in lines for people; None for what is not of this family."""

    @abstractmethod
    def convert(self, path: Path, source: TensorSource | None, dtype) -> tuple[dict[str, Pending], dict[str, str]]:
        """The tensors and the metadata of one self-contained file made from a checkpoint, or of a head.

        Raises:
            CheckpointError: the source does not hold together.
            ValueError: it cannot have that dtype.
        """

    @abstractmethod
    def sizes(self, path: Path) -> tuple[BackboneConfig, int]:
        """The base's sizes and the downscale factor of a checkpoint, from its small files alone.

        Raises:
            CheckpointError: its files are bad.
        """

    def split(self, checkpoint: Checkpoint, condition: Any) -> Any:
        """A request that asks for several images at once as a list of one for each; others as they are."""
        return condition

    def label(self, checkpoint: Checkpoint, condition: Any) -> str:
        """A condition as people read it: of a class its name, where it has one."""
        return str(condition)

    @abstractmethod
    def own_settings(self, path: Path) -> tuple[dict[str, Any], Trained]:
        """A checkpoint's ``settings`` and ``trained``, from its small files alone.

        Raises:
            CheckpointError: its files are bad.
        """

    def base_tensors(self, path: Path, source: TensorSource | None) -> TensorSource:
        """The base's tensors under its own names, from what ``detect`` has opened.

        Raises:
            CheckpointError: its files are bad.
        """
        return source.prefixed(self.base_prefix)

    def companions(self, path: Path) -> list[Path]:
        """Files that belong to a checkpoint and lie elsewhere than in its file or folder."""
        return []

    def files(self, path: Path) -> list[Path]:
        """Files that a conversion must not write over: what a head or a checkpoint is read from, everything in its folder, and what may be
        of the same checkpoint.

        Raises:
            CheckpointError: its files are bad.
        """
        others = path.iterdir() if path.is_dir() else path.parent.glob("model*.safetensors")  # a file may be one of several shards
        return [path, *others, *self.companions(path)]

    @abstractmethod
    def typical_head(self, base: BackboneConfig) -> HeadConfig:
        """The sizes of a head of the published proportions for a base."""

    @abstractmethod
    def branches(self, checkpoint: Checkpoint, condition: Any, negative: str, guidance_scale: float, batch: int) -> list[Branch]:
        """The guidance branches of a request.

        Args:
            condition: a prompt or a list of them, or classes; a list has one for each image.
            negative: a prompt to steer away from, where the family takes text.
            batch: images of the run.

        Raises:
            ValueError: the condition is not one that the model takes.
        """

    def task(self, name: str) -> Any:
        """A task by its name.

        Raises:
            ValueError: there is none.
        """
        if not isinstance(name, str) or name not in self.tasks:
            raise ValueError(f"task is {arguments.shown(name)}, expected one of {', '.join(self.tasks)}." if self.tasks else f"{self.title} has no tasks; task is {arguments.shown(name)}. Leave it out.")
        return self.tasks[name]

    def task_settings(self, trained: Trained, task: str) -> Mapping[str, Any]:
        """Settings of a run that a task has otherwise than the checkpoint."""
        return {}

    def task_sizes(
        self, task: str, pictures: Sequence[tuple[int, int] | None], trained: Trained, downscale_factor: int, text_scale: float, image_scale: float
    ) -> TaskSizes | None:
        """What a task's pictures make of a run, before one is read; None for a task whose prompt shows none.

        Args:
            pictures: (width, height) of each in pixels; None where that is not known, which stands for a square.

        Raises:
            ValueError: there is no such task.
        """
        self.task(task)
        return None

    def task_inputs(self, checkpoint: Checkpoint, request: TaskRequest, encode: Encode) -> Any:
        """A task's pictures, ready for the model: what ``lumina_dimoo.inputs.Inputs`` says of them.

        Raises:
            ValueError: the task does not take these, or one of them is no picture.
        """
        raise ValueError(f"{self.title} takes no pictures.")

    def task_branches(self, checkpoint: Checkpoint, request: TaskRequest, inputs: Any, text_scale: float, image_scale: float = 0) -> list[Branch]:
        """The guidance branches of a task.

        Args:
            inputs: from ``task_inputs``.
            text_scale, image_scale: guidance towards the words and towards the pictures.

        Raises:
            ValueError: a prompt is not one that the model or the task takes.
        """
        raise ValueError(f"{self.title} has no tasks.")

    def understand(self, checkpoint: Checkpoint, questions: list[str], pictures: Any, encode: Encode, settings: Mapping[str, Any], callback: Any = None) -> list[Any]:
        """An answer for each question on the same pictures; see ``lumina_dimoo.reading``."""
        raise ValueError(f"{self.title} does not answer questions.")

    def choose(self, checkpoint: Checkpoint, questions: list[str], options: list[str], pictures: Any, encode: Encode) -> list[Any]:
        """Which of some answers is the likeliest, for each question on the same pictures; see ``lumina_dimoo.reading``."""
        raise ValueError(f"{self.title} does not answer questions.")

    def sampling(self, values: Mapping[str, Any]) -> Rule:
        """The rule with some of its settings.

        Raises:
            ValueError: one is out of its range.
        """
        return self.rule(**{each.name: values[each.name] for each in fields(self.rule) if values.get(each.name) is not None})

    def rule_settings(self) -> list[str]:
        return [each.name for each in fields(self.rule)]

    def unknown_words(self, checkpoint: Checkpoint, prompts: Iterable[Any], negative: str = "") -> list[str]:
        """Words of a request that the model does not know.

        Raises:
            ValueError: a text is too long, or holds what is no text.
        """
        return []
