"""Lumina-DiMOO (arXiv 2510.06308): a bidirectional transformer over text and image tokens, and aMUSEd's image tokenizer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from ...arguments import shown
from ...checkpoints.checkpoint import Checkpoint
from ...checkpoints.errors import CheckpointError
from ...checkpoints.files import read_json
from ...checkpoints.generation import run_settings, trained_for
from ...checkpoints.gguf_file import GgufNames
from ...checkpoints.names import TEXT_TOKENIZER_KEY, Part
from ...checkpoints.source import TensorSource
from ...modules import uninitialised
from ...sampling.backbone import Branch
from ...tokenizers.amused_vq import ImageTokenizerConfig
from ...trained import Trained
from .. import family
from ..request import Encode, TaskRequest, TaskSizes
from . import files, inputs, names, reading, tasks, write
from .backbone import Lumina
from .config import LuminaConfig
from .describe import describe
from .head import ShortcutConfig, ShortcutHead, head_for
from .initial import widened
from .rule import LuminaRule
from .text_settings import TextSettings


class LuminaDiMOO(family.Family):
    name: ClassVar[str] = "lumina-dimoo"
    title: ClassVar[str] = "Lumina-DiMOO"
    config: ClassVar[type] = LuminaConfig
    head: ClassVar[type] = ShortcutConfig
    backbone: ClassVar[type] = Lumina
    rule: ClassVar[type] = LuminaRule
    head_training: ClassVar[family.HeadTraining] = family.HeadTraining(lr=1e-3, min_lr=1e-4)
    tasks: ClassVar[Mapping[str, Any]] = MappingProxyType(tasks.TASKS)
    text_settings: ClassVar[type] = TextSettings
    base_prefix: ClassVar[str] = names.BASE_PREFIX
    gguf_names: ClassVar[GgufNames] = names.GGUF_NAMES
    base_mark: ClassVar[str] = names.BASE_MARK
    whole_mark: ClassVar[str] = TEXT_TOKENIZER_KEY
    head_mark: ClassVar[str] = names.HEAD_MARK
    head_kind: ClassVar[str] = "migm-shortcut-head"
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"width": 1024, "height": 1024, "steps": 64, "budget": 11, "guidance_scale": 4.0, "temperature": 1.0}
    )

    def parts(self, tensor_names: list[str]) -> dict[Part, str]:
        return names.parts(tensor_names)

    def matches(self, path: Path, source: TensorSource | None) -> bool:
        return source is not None and any(name.startswith(names.BASE_PREFIX) for name in source.shapes)

    def load(self, path: Path, source: TensorSource | None, **options) -> Checkpoint:
        return files.load(self, path, source, **options)

    def is_head(self, source: TensorSource) -> bool:
        return names.HEAD_MARK in source

    def head_config(self, source: TensorSource, base: LuminaConfig | None = None) -> ShortcutConfig:
        return files.check_head(source, base)

    def build_head(self, source: TensorSource, base: LuminaConfig, *, dtype=None, device="cpu", operations=uninitialised) -> ShortcutHead:
        return files.build_head(source, base, dtype=dtype, device=device, operations=operations)

    def new_head(self, base: LuminaConfig, ratio: float) -> ShortcutHead:
        return ShortcutHead(head_for(base, ratio))

    def widened_head(self, head: ShortcutHead, ratio: float) -> ShortcutHead:
        return widened(head, replace(head.config, bottleneck_ratio=ratio))

    def describe(self, path: Path, source: TensorSource | None) -> list[str] | None:
        return describe(path, source)

    def convert(self, path: Path, source: TensorSource | None, dtype: torch.dtype | None):
        return write.convert(path, source, dtype)

    def sizes(self, path: Path) -> tuple[LuminaConfig, int]:
        if folder := files.folder_of(path):
            config, image_config = read_json(folder / "config.json"), read_json(folder / "vqvae" / "config.json")
        else:
            source = TensorSource.open(path, data=False)
            config, image_config = source.metadata_json("config"), source.metadata_json("vqvae_config")
        try:
            return LuminaConfig.from_json(config, source=str(path)), ImageTokenizerConfig.from_json(image_config, str(path)).downscale_factor
        except (ValueError, TypeError) as error:
            raise CheckpointError(str(error)) from None

    def own_settings(self, path: Path) -> tuple[dict[str, Any], Trained]:
        said, name = files.generation_config(path, None if files.folder_of(path) else TensorSource.open(path, data=False))
        _, downscale_factor = self.sizes(path)
        return run_settings(self, said, name, downscale_factor), trained_for(said, name, downscale_factor)

    def files(self, path: Path) -> list[Path]:
        folder = files.folder_of(path)
        return [*super().files(path), *(folder.iterdir() if folder else ()), *(folder or path.parent).glob("vqvae/*")]

    def typical_head(self, base: LuminaConfig) -> ShortcutConfig:
        return ShortcutConfig(base.d_model, base.n_heads, base.mlp_hidden_size)

    def branches(self, checkpoint: Checkpoint, condition: str | list[str], negative: str, guidance_scale: float, batch: int) -> list[Branch]:
        if not isinstance(condition, str):
            raise ValueError(f"prompt is {shown(condition)}, expected text.")
        return tasks.text_to_image(checkpoint.prompts, condition, negative, guidance_scale)

    def task_settings(self, trained: Trained, task: str) -> Mapping[str, Any]:
        if not tasks.TASKS[task].guides_by_pictures:
            return {}
        return {"guidance_scale": tasks.TEXT_SCALE if trained.guidance else 0.0, "image_guidance_scale": tasks.IMAGE_SCALE if trained.guidance else 0.0}

    def task_sizes(
        self, task: str, pictures: Sequence[tuple[int, int] | None], trained: Trained, downscale_factor: int, text_scale: float, image_scale: float
    ) -> TaskSizes | None:
        asked = self.task(task)
        return inputs.sizes_of(asked, pictures, trained.sizes, downscale_factor, text_scale, image_scale) if asked.guides_by_pictures else None

    def task_inputs(self, checkpoint: Checkpoint, request: TaskRequest, encode: Encode) -> inputs.Inputs:
        factor = checkpoint.image_tokenizer.config.downscale_factor
        return inputs.for_task(self.task(request.task), request, encode, factor, checkpoint.trained.sizes)

    def task_branches(self, checkpoint: Checkpoint, request: TaskRequest, prepared: inputs.Inputs, text_scale: float, image_scale: float = 0) -> list[Branch]:
        task = self.task(request.task)
        task.check(request, len(prepared.codes))
        return task.branches(checkpoint.prompts, request, prepared.codes, text_scale, image_scale)

    def understand(
        self, checkpoint: Checkpoint, questions: list[str], pictures: Any, encode: Encode, settings: Mapping[str, Any], callback: Any = None
    ) -> list[reading.Reply]:
        return reading.answer_questions(checkpoint, questions, self._to_read(checkpoint, pictures, encode), settings, callback)

    def choose(self, checkpoint: Checkpoint, questions: list[str], options: list[str], pictures: Any, encode: Encode) -> list[reading.Choice]:
        ready = self._to_read(checkpoint, pictures, encode)
        return [reading.choose(checkpoint, question, options, ready) for question in questions]

    @staticmethod
    def _to_read(checkpoint: Checkpoint, pictures: Any, encode: Encode) -> inputs.Inputs:
        return inputs.for_reading(pictures, encode, checkpoint.image_tokenizer.config.downscale_factor, checkpoint.trained.sizes)

    def unknown_words(self, checkpoint: Checkpoint, prompts: Iterable[str], negative: str = "") -> list[str]:
        return checkpoint.prompts.unknown_words(*prompts, negative=negative)
