"""How well the trained models do on prompts that training never showed, by the world's judge; many pictures at a time."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...canvas import Canvas
from ...checkpoints.errors import CheckpointError
from ...checkpoints.files import read_file
from ...devices import fast_dtype, half_precision
from ...families.lumina_dimoo.backbone import Lumina
from ...families.lumina_dimoo.head import ShortcutHead
from ...families.lumina_dimoo.rule import LuminaRule
from ...families.maskgit.backbone import MaskGit
from ...families.maskgit.head import MaskGitHead
from ...families.maskgit.rule import MaskGitRule
from ...sampling.backbone import Branch
from ...sampling.loop import sample
from ...sampling.noise import SeededNoise
from ...sampling.rule import Rule
from ...tokenizers.amused_vq import ImageTokenizer
from .. import lakeside
from ..lakeside import Verdict
from ..lakeside.scene import KIND_NAMES
from .batched import Batched, BatchedShortcut, compile_blocks
from .lessons import encoded, for_encoding, padded_prompts
from .maskgit import ClassBase, class_prompts
from .padded import PaddedBase
from .sizes import Sizes

AT_ONCE, AT_ONCE_ON_A_CPU = 256, 32  # pictures; fewer leave a processor's caches seldom
DECODED_AT_ONCE = 64
Z = 1.96  # of a 95% interval


@dataclass(frozen=True)
class Way:
    """How to sample: vanilla where ``budget`` is 0."""

    budget: int = 0
    steps: int = 64
    guidance_scale: float = 4.0
    temperature: float = 1.0

    def __str__(self) -> str:
        name = f"shortcut {self.budget} of {self.steps}" if self.budget else f"vanilla {self.steps}"
        return f"{name}, guidance {self.guidance_scale:g}, temperature {self.temperature:g}"


class Sampler(ABC):
    """A base model on one device, in 16 bits where that is fast, that samples many pictures at a time.

    Attributes:
        prompts, unconditional: (N, P) and (P,).
        divide_first: how the family rounds full steps.
        at_once: pictures that are sampled together.
        open: which prompts leave open where things stand, which is what few steps are worst at; None where no prompt tells.
    """

    divide_first = False

    def __init__(self, tokenizer: ImageTokenizer, model: Batched | None, head: nn.Module | None, side: int, seed: int):
        self.tokenizer, self.model, self.head, self.side, self.seed = for_encoding(tokenizer), model, head, side, seed
        self.device = tokenizer.post_quant_conv.weight.device
        self.at_once = AT_ONCE_ON_A_CPU if self.device.type == "cpu" else AT_ONCE
        self.prompts = self.unconditional = torch.empty(0)
        self.open: list[bool] | None = None
        self.pictures = torch.empty(0)
        self.first: list[bool] | None = None
        self.compiled = False
        self.blind = False  # without a judge, which then was told

    @abstractmethod
    def rule(self, way: Way) -> Rule:
        """The family's rule with the settings of a way."""

    @abstractmethod
    def verdicts(self, pictures: Tensor, count: int) -> list[Verdict]:
        """The judge's, of pictures (count, 3, h, w) of the first prompts."""

    def of(self, way: Way, count: int | None = None) -> Row:
        """Generate for the first ``count`` prompts, and judge."""
        count = count or len(self.prompts)
        began = time.monotonic()
        parts = []
        at_once = self.at_once if way.guidance_scale else 2 * self.at_once  # then there is one branch; passes are as large as with two
        for first in range(0, count, at_once):
            parts.append(self.generated(way, range(first, min(first + at_once, count)), at_once))
        codes = torch.cat(parts)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.monotonic() - began
        self.pictures = self.decoded(codes)
        row = Row(str(way), count, round(seconds, 2), settings=asdict(way))
        verdicts = self.judged(lambda: self.verdicts(self.pictures.float(), count))
        if verdicts is not None:
            right = row.judge(verdicts)
            if self.open is not None:
                of_open = [each for each, is_open in zip(right, self.open) if is_open]
                row.open = (sum(of_open), len(of_open))
            if self.first is None:
                self.first = right
            else:
                row.against = paired(self.first[:count], right)
        return row

    def generated(self, way: Way, rows: range, at_once: int | None = None) -> Tensor:
        """Codes for some of the prompts, int64 (n, H, W). For compiled models, shapes never change: others fill the batch up."""
        chosen = [rows[k % len(rows)] for k in range(at_once or self.at_once)] if self.compiled else list(rows)
        branches = self.branches(chosen, way)
        canvas = Canvas.empty(len(chosen), self.side, self.side, self.device)
        noise = SeededNoise([torch.Generator(self.device).manual_seed(self.seed + k) for k in chosen])
        method = BatchedShortcut(self.head if way.budget else None, way.budget, divide_first=self.divide_first)
        return sample(self.model, branches, canvas, method, self.rule(way), steps=way.steps, noise=noise).codes[: len(rows)]

    def branches(self, chosen: list[int], way: Way) -> list[Branch]:
        """The guidance branches of some of the prompts."""
        return self.model.branches(self.prompts[chosen], self.unconditional, way.guidance_scale)

    @torch.inference_mode()
    def decoded(self, codes: Tensor) -> Tensor:
        """Pictures of codes, float16 (N, 3, h, w)."""
        pictures = []
        for part in codes.split(DECODED_AT_ONCE):
            with half_precision(self.device):
                pictures.append(self.tokenizer.decode(part).half().contiguous())
        return torch.cat(pictures)

    def judged(self, judge: Callable[[], list[Verdict]]) -> list[Verdict] | None:
        """Verdicts, or None where the judge has not been trained."""
        try:
            return judge()
        except FileNotFoundError as error:
            if not self.blind:
                print(error, flush=True)
            self.blind = True
            return None


@dataclass
class Row:
    """What came of a way. ``right`` and so on are None without a judge.

    Attributes:
        interval: of the share that is right.
        against: right here less right with the first way, on the same prompts and seeds, and its interval.
        faults: how many pictures have a fault of each kind.
        verdicts: 1 for each picture that is right, 0 for others, in the order of the prompts.
        left_out: more prompts, for which there was no time.
        open: right and all of those that leave open where things stand.
    """

    way: str
    prompts: int
    seconds: float
    right: float | None = None
    interval: tuple[float, float] | None = None
    against: tuple[float, float, float] | None = None
    faults: dict[str, int] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    verdicts: str = ""
    left_out: int = 0
    open: tuple[int, int] | None = None

    def judge(self, verdicts: list[Verdict]) -> list[bool]:
        """Take the judge's verdicts; which are right."""
        right = [verdict.right for verdict in verdicts]
        self.right, self.interval = sum(right) / len(right), wilson(sum(right), len(right))
        self.faults, self.verdicts = dict(faults_of(verdicts)), "".join(str(int(each)) for each in right)
        return right

    @property
    def share(self) -> str:
        return "?" if self.right is None else f"{self.right:.1%}"


def read_report(path: Path) -> dict[str, Any]:
    """A report that the stage evaluation has written.

    Raises:
        ValueError: it is none.
    """
    try:
        report = json.loads(read_file(path, "Run the stage evaluation."))
        for row in report["rows"]:
            Row(**row)
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise ValueError(f"{path} is no report of an evaluation ({type(error).__name__}: {str(error)[:80]}). Remove it, and run the stage evaluation again.") from None
    return report


def wilson(right: int, count: int) -> tuple[float, float]:
    """95% interval of a share."""
    share, z2 = right / count, Z**2 / count
    middle, half = share + z2 / 2, Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return (middle - half) / (1 + z2), (middle + half) / (1 + z2)


def paired(first: list[bool], second: list[bool]) -> tuple[float, float, float]:
    """Mean of second less first, and its 95% interval."""
    differences = torch.tensor(second).double() - torch.tensor(first).double()
    mean, half = differences.mean().item(), Z * differences.std().item() / math.sqrt(len(differences))
    return mean, mean - half, mean + half


class Evaluator(Sampler):
    """Lumina's models, with prompts of a split of the scenes."""

    def __init__(self, sizes: Sizes, tokenizer: ImageTokenizer, base: Lumina | None, head: ShortcutHead | None, prompts: int, split: str, seed: int = 0):
        device = tokenizer.post_quant_conv.weight.device
        dtype = fast_dtype(device)
        super().__init__(tokenizer, None if base is None else PaddedBase(base.to(dtype)), None if head is None else head.to(dtype), sizes.side, seed)
        self.sizes = sizes
        generator = torch.Generator().manual_seed(10**6 + seed)
        self.scenes = lakeside.sample_scenes(prompts, generator, split, sizes.variety)
        self.texts = lakeside.prompts(self.scenes, 10**6 + seed)
        self.request = lakeside.parse(self.texts)
        self.open = self.request.places_open.tolist()
        padded = padded_prompts(sizes)
        self.prompts, self.unconditional = padded.prompts(self.texts).to(device), padded.unconditional().to(device)

    def rule(self, way: Way) -> LuminaRule:
        return LuminaRule(way.temperature)

    def verdicts(self, pictures: Tensor, count: int) -> list[Verdict]:
        return lakeside.judge(pictures, self.request[:count])

    def compile(self) -> None:
        """Fuse the base's blocks, and have that done before anything is timed."""
        compile_blocks(self.model.base)
        self.compiled = True
        self.generated(Way(steps=2), range(1))

    def read_back(self, count: int) -> float:
        """The share of the renderer's pictures that are right after the image tokenizer."""
        scenes = self.scenes[:count]
        parts = [scenes[first : first + DECODED_AT_ONCE] for first in range(0, len(scenes), DECODED_AT_ONCE)]
        shown = torch.cat([self.decoded(encoded(self.tokenizer, self.rendered(part))) for part in parts])
        return sum(v.right for v in lakeside.judge(shown.float(), scenes.request())) / len(scenes)

    def rendered(self, scenes: lakeside.Scenes) -> Tensor:
        return lakeside.render(scenes.to(self.device), self.sizes.pixels)

    def tokenizers(self, count: int) -> tuple[dict, list[Tensor]]:
        """What is right of the renderer's own pictures, and of the same after the image tokenizer; and rows of both to look at."""
        rendered, shown, used = [], [], torch.zeros(self.sizes.tokenizer.num_vq_embeddings, device=self.device)
        scenes = self.scenes[:count]
        for first in range(0, len(scenes), DECODED_AT_ONCE):
            images = self.rendered(scenes[first : first + DECODED_AT_ONCE])
            codes = encoded(self.tokenizer, images)
            used.index_add_(0, codes.flatten(), torch.ones(codes.numel(), device=self.device))
            rendered.append(images.half())
            shown.append(self.decoded(codes))
        error = sum(((a.float() - b.float()) ** 2).mean((1, 2, 3)).sum().item() for a, b in zip(rendered, shown)) / len(scenes)
        share = used[used > 0] / used.sum()
        found = {
            "pictures": len(scenes),
            "psnr": round(-10 * math.log10(error), 2),
            "codes_used": int((used > 0).sum()),
            "bits_a_token": round(-(share * share.log2()).sum().item(), 2),
        }
        rows = [torch.cat(part)[:8] for part in (rendered, shown)]
        for name, pictures in (("rendered", rendered), ("tokenised", shown)):
            verdicts = self.judged(lambda: lakeside.judge(torch.cat(pictures).float(), scenes.request()))  # noqa: B023
            if verdicts is None:
                break
            right = sum(v.right for v in verdicts)
            found |= {f"{name}_right": right / len(scenes), f"{name}_interval": wilson(right, len(scenes)), f"{name}_faults": dict(faults_of(verdicts))}
        return found, rows


class ClassEvaluator(Sampler):
    """MaskGIT's models, each class about equally often."""

    divide_first = True

    def __init__(self, sizes: Sizes, tokenizer: ImageTokenizer, base: MaskGit, head: MaskGitHead | None, count: int, seed: int = 0):
        device = tokenizer.post_quant_conv.weight.device
        dtype = fast_dtype(device)
        super().__init__(tokenizer, ClassBase(base.to(dtype)), None if head is None else head.to(dtype), sizes.side, seed)
        self.sizes = sizes
        self.classes = lakeside.random_classes(count, torch.Generator().manual_seed(10**6 + seed))
        self.prompts = class_prompts(self.classes, base.config.codebook_size).to(device)
        self.unconditional = torch.tensor([base.config.dropped_class], device=device)

    def rule(self, way: Way) -> MaskGitRule:
        return self.sizes.classes.rule

    def verdicts(self, pictures: Tensor, count: int) -> list[Verdict]:
        return lakeside.judge_classes(pictures, self.classes[:count])


def faults_of(verdicts: list) -> Counter:
    """How many pictures have a fault of each kind: an attribute, "kind" for an object that is not there or not whole, "relation"."""
    counts: Counter = Counter()
    for verdict in verdicts:
        kinds = set()
        for name in verdict.faults:
            if " of the " in name:
                kinds.add(name.split(" of the ")[0])
            elif " and " in name:
                kinds.add("relation")
            else:
                kinds.add("kind" if name in KIND_NAMES else name)
        counts.update(kinds)
    return counts


def table(rows: list[Row]) -> str:
    """Rows as Markdown."""
    percent = lambda value: f"{100 * value:.1f}"  # noqa: E731
    lines = ["| way | prompts | right, % | 95% | less the first, points | places left open | seconds | faults |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        right = interval = against = ""
        of_open = "" if row.open is None else "{} of {}".format(*row.open)
        if row.right is not None:
            right, interval = percent(row.right), f"{percent(row.interval[0])} to {percent(row.interval[1])}"
        if row.against is not None:
            against = f"{100 * row.against[0]:+.1f} ({100 * row.against[1]:+.1f} to {100 * row.against[2]:+.1f})"
        faults = ", ".join(f"{name} {count}" for name, count in sorted(row.faults.items(), key=lambda item: -item[1]))
        prompts = f"{row.prompts} of {row.prompts + row.left_out}" if row.left_out else row.prompts
        lines.append(f"| {row.way} | {prompts} | {right} | {interval} | {against} | {of_open} | {row.seconds:.1f} | {faults} |")
    return "\n".join(lines)
