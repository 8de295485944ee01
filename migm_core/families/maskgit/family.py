"""MaskGIT (arXiv 2202.04200; Halton-MaskGIT v1.0, arXiv 2310.14400): class-conditional images, and a VQGAN."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...checkpoints.checkpoint import Checkpoint
from ...checkpoints.files import find_file
from ...checkpoints.names import Part
from ...checkpoints.source import TensorSource
from ...modules import uninitialised
from ...sampling.backbone import Branch
from ...trained import Trained
from .. import family
from . import files, names, tasks, write
from .backbone import MaskGit
from .config import MaskGitConfig
from .describe import describe
from .head import MaskGitHead, MaskGitHeadConfig
from .rule import MaskGitRule
from .trajectories import TarShards


class MaskGIT(family.Family):
    name: ClassVar[str] = "maskgit"
    title: ClassVar[str] = "MaskGIT"
    config: ClassVar[type] = MaskGitConfig
    head: ClassVar[type] = MaskGitHeadConfig
    backbone: ClassVar[type] = MaskGit
    rule: ClassVar[type] = MaskGitRule
    trajectories: ClassVar[type] = TarShards
    head_training: ClassVar[family.HeadTraining] = family.HeadTraining(lr=1e-4, min_lr=1e-5, masked_only=True, one_branch=True)
    # Of the published scripts. A model has one image size, which takes the place of the one here.
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "width": 512,
            "height": 512,
            "steps": 15,
            "budget": 8,
            "guidance_scale": 2.8,
            "schedule": "arccos",
            "guidance_ramp": True,
            "softmax_temperature": 1.0,
            "choice_temperature": 7.0,
            "randomize": "linear",
        }
    )
    method_fields: ClassVar[Mapping[str, Any]] = MappingProxyType({"divide_first": True})
    takes: ClassVar[str] = "classes"
    base_mark: ClassVar[str] = names.BASE_MARK
    whole_mark: ClassVar[str] = names.IMAGE_TOKENIZER_PREFIX + names.IMAGE_TOKENIZER_MARK
    head_mark: ClassVar[str] = names.HEAD_MARK
    head_kind: ClassVar[str] = "maskgit-shortcut-head"

    def parts(self, tensor_names: list[str]) -> dict[Part, str]:
        return names.parts(tensor_names)

    def matches(self, path: Path, source: TensorSource | None) -> bool:
        if path.is_dir():
            return files.find_base(path) is not None or find_file(path, files.VQGAN_WEIGHTS).exists()
        return source is not None and (names.BASE_MARK in source or names.IMAGE_TOKENIZER_MARK in source)

    def load(self, path: Path, source: TensorSource | None, **options) -> Checkpoint:
        return files.load(self, path, source, **options)

    def is_head(self, source: TensorSource) -> bool:
        return names.HEAD_MARK in source

    def head_config(self, source: TensorSource, base: MaskGitConfig | None = None) -> MaskGitHeadConfig:
        return files.head_config(source, base)

    def build_head(self, source: TensorSource, base: MaskGitConfig, *, dtype=None, device="cpu", operations=uninitialised) -> MaskGitHead:
        return files.build_head(source, base, dtype=dtype, device=device, operations=operations)

    def new_head(self, base: MaskGitConfig, ratio: float) -> MaskGitHead:
        if not 1 <= ratio:
            raise ValueError(f"The ratio {ratio:g} gives a head that is wider than its base, whose width is {base.width}. Choose 1 or more.")
        return MaskGitHead(MaskGitHeadConfig(base.width, base.n_heads, bottleneck_ratio=ratio))

    def head_tensors(self, head: MaskGitHead) -> dict[str, Tensor]:
        return names.Layout(head, names.HEAD).published(head.state_dict())

    def describe(self, path: Path, source: TensorSource | None) -> list[str] | None:
        return describe(path, source)

    def convert(self, path: Path, source: TensorSource | None, dtype: torch.dtype | None):
        return write.convert(path, source, dtype)

    def sizes(self, path: Path) -> tuple[MaskGitConfig, int]:
        found = files.locate(path, data=False)
        return found.config(), found.vqgan_config().downscale_factor

    def own_settings(self, path: Path) -> tuple[dict[str, Any], Trained]:
        return files.own_settings(self, files.locate(path, data=False))

    def base_tensors(self, path: Path, source: TensorSource | None) -> TensorSource:
        return files.locate(path, source, data=False).base

    def companions(self, path: Path) -> list[Path]:
        here = path if path.is_dir() else path.parent
        folder = files.find_vqgan_folder(here)
        beside = [] if path.is_dir() else [find_file(here, name) for name in ("config.json", "generation_config.json")]
        return [file for file in (*beside, *(folder.iterdir() if folder else ())) if file.is_file()]

    def files(self, path: Path) -> list[Path]:
        base = path.is_dir() and files.find_base(path) or path  # a folder may hold a VQGAN alone
        beside = [find_file(base.parent, name) for name in ("config.json", "generation_config.json", files.VQGAN_CONFIG)]
        return [*super().files(path), base, *beside, *self.companions(base)]

    def typical_head(self, base: MaskGitConfig) -> MaskGitHeadConfig:
        return MaskGitHeadConfig(base.d_model, base.n_heads, bottleneck_ratio=1 if base.d_model // base.n_heads % 2 else 2)

    def split(self, checkpoint: Checkpoint, condition: int | str) -> int | str | list[int]:
        numbers = checkpoint.prompts.parse(condition)
        return numbers if len(numbers) > 1 else condition

    def label(self, checkpoint: Checkpoint, condition: int | str) -> str:
        return checkpoint.prompts.label(checkpoint.prompts.number(condition))

    def branches(self, checkpoint: Checkpoint, condition: int | str | list[int | str], negative: str, guidance_scale: float, batch: int) -> list[Branch]:
        if negative.strip():
            raise ValueError("A MaskGIT model takes classes, and nothing to steer away from: leave the negative prompt out.")
        return tasks.class_to_image(checkpoint.prompts, checkpoint.base.config, condition, guidance_scale, batch)
