"""How well the trained models do on prompts that training never showed, by the world's judge; many pictures at a time."""

import math
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial

import torch
from torch import Tensor

from ...canvas import Canvas
from ...models.image_tokenizer import ImageTokenizer
from ...models.lumina import Lumina
from ...models.shortcut import ShortcutHead
from ...sampling.sampler import sample
from ...sampling.sequence import text_guidance
from ...training.padded import PaddedBase, PaddedShortcut, compile_blocks
from .. import lakeside
from .lessons import encoded, for_encoding, padded_prompts
from .sizes import Sizes

AT_ONCE = 256
DECODED_AT_ONCE = 64
Z = 1.96  # of a 95% interval


@dataclass(frozen=True)
class Way:
    """How to sample: vanilla where ``budget`` is 0."""

    budget: int = 0
    steps: int = 64
    guidance: float = 4.0
    temperature: float = 1.0

    def __str__(self) -> str:
        name = f"shortcut {self.budget} of {self.steps}" if self.budget else f"vanilla {self.steps}"
        return f"{name}, guidance {self.guidance:g}, temperature {self.temperature:g}"


@dataclass
class Row:
    """What came of a way. ``right`` and so on are None without a judge.

    Attributes:
        interval: of the share that is right.
        against: right here less right with the first way, on the same prompts and seeds, and its interval.
        faults: how many pictures have a fault of each kind.
    """

    way: str
    prompts: int
    seconds: float
    right: float | None = None
    interval: tuple[float, float] | None = None
    against: tuple[float, float, float] | None = None
    faults: dict[str, int] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)


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


class Evaluator:
    """The models on one device, in 16 bits on a GPU, with prompts of a split.

    Attributes:
        pictures: of the last way, (N, 3, h, w) in 16 bits.
    """

    def __init__(self, sizes: Sizes, tokenizer: ImageTokenizer, base: Lumina | None, head: ShortcutHead | None, prompts: int, split: str, seed: int = 0):
        self.sizes, self.seed = sizes, seed
        device = next(tokenizer.parameters()).device
        self.device, self.dtype = device, torch.bfloat16 if device.type == "cuda" else torch.float32
        self.tokenizer = for_encoding(tokenizer)
        self.model = None if base is None else PaddedBase(base.to(self.dtype))
        self.head = None if head is None else head.to(self.dtype)
        generator = torch.Generator().manual_seed(10**6 + seed)
        self.scenes = lakeside.sample_scenes(prompts, generator, split)
        self.texts = lakeside.prompts(self.scenes, 10**6 + seed)
        self.request = lakeside.parse(self.texts)
        padded = padded_prompts(sizes)
        self.prompts, self.unconditional = padded.prompts(self.texts).to(device), padded.unconditional().to(device)
        self.pictures = torch.empty(0)
        self.first: list[bool] | None = None
        self.compiled = False
        self.blind = False  # without a judge, which then was told

    def of(self, way: Way, count: int | None = None) -> Row:
        """Generate for the first ``count`` prompts, and judge."""
        count = count or len(self.texts)
        began = time.monotonic()
        parts = []
        at_once = AT_ONCE if way.guidance else 2 * AT_ONCE  # then there is one branch; passes are as large as with two
        for first in range(0, count, at_once):
            parts.append(self.generated(way, range(first, min(first + at_once, count)), at_once))
        codes = torch.cat(parts)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.monotonic() - began
        self.pictures = self.decoded(codes)
        row = Row(str(way), count, round(seconds, 2), settings=asdict(way))
        verdicts = self.judged(self.pictures, self.request[:count])
        if verdicts is not None:
            right = [v.right for v in verdicts]
            row.right, row.interval = sum(right) / count, wilson(sum(right), count)
            row.faults = dict(faults_of(verdicts))
            if self.first is None:
                self.first = right
            else:
                row.against = paired(self.first[:count], right)
        return row

    def generated(self, way: Way, rows: range, at_once: int = AT_ONCE) -> Tensor:
        """Codes for some of the prompts, int64 (n, H, W). For compiled models, shapes never change: others fill the batch up."""
        chosen = [rows[k % len(rows)] for k in range(at_once)] if self.compiled else list(rows)
        branches = text_guidance(self.prompts[chosen], self.unconditional.expand(len(chosen), -1), way.guidance)
        canvas = Canvas.empty(len(chosen), self.sizes.side, self.sizes.side, self.device)
        generators = [torch.Generator(self.device).manual_seed(self.seed + k) for k in chosen]
        method = PaddedShortcut(self.head if way.budget else None, way.budget)
        return sample(self.model, branches, canvas, method, steps=way.steps, temperature=way.temperature, generators=generators).codes[: len(rows)]

    def compile(self) -> None:
        """Fuse the base's blocks, and have that done before anything is timed."""
        compile_blocks(self.model.base)
        self.compiled = True
        self.generated(Way(steps=2), range(1))

    @torch.inference_mode()
    def decoded(self, codes: Tensor) -> Tensor:
        """Pictures of codes, float16 (N, 3, h, w)."""
        half = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")
        pictures = []
        for part in codes.split(DECODED_AT_ONCE):
            with half():
                pictures.append(self.tokenizer.decode(part).half())
        return torch.cat(pictures)

    def judged(self, pictures: Tensor, request) -> list | None:
        """Verdicts, or None where the judge has not been trained."""
        try:
            return lakeside.judge(pictures.float(), request)
        except FileNotFoundError as error:
            if not self.blind:
                print(error, flush=True)
            self.blind = True
            return None

    def tokenizers(self, count: int = 1000) -> tuple[dict, list[Tensor]]:
        """What is right of the renderer's own pictures, and of the same after the image tokenizer; and rows of both to look at."""
        rendered, shown, used = [], [], torch.zeros(self.sizes.tokenizer.num_vq_embeddings, device=self.device)
        scenes = self.scenes[:count]
        for first in range(0, len(scenes), DECODED_AT_ONCE):
            images = lakeside.render(scenes[first : first + DECODED_AT_ONCE].to(self.device), self.sizes.pixels)
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
            verdicts = self.judged(torch.cat(pictures), scenes.request())
            if verdicts is None:
                break
            right = sum(v.right for v in verdicts)
            found |= {f"{name}_right": right / len(scenes), f"{name}_interval": wilson(right, len(scenes)), f"{name}_faults": dict(faults_of(verdicts))}
        return found, rows


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
                kinds.add(name if name in ("time", "weather", "ground", "setting", "objects") else "kind")
        counts.update(kinds)
    return counts


def table(rows: list[Row]) -> str:
    """Rows as Markdown."""
    percent = lambda value: f"{100 * value:.1f}"  # noqa: E731
    lines = ["| way | prompts | right, % | 95% | less the first, points | seconds | faults |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        right = interval = against = ""
        if row.right is not None:
            right, interval = percent(row.right), f"{percent(row.interval[0])} to {percent(row.interval[1])}"
        if row.against is not None:
            against = f"{100 * row.against[0]:+.1f} ({100 * row.against[1]:+.1f} to {100 * row.against[2]:+.1f})"
        faults = ", ".join(f"{name} {count}" for name, count in sorted(row.faults.items(), key=lambda item: -item[1]))
        lines.append(f"| {row.way} | {row.prompts} | {right} | {interval} | {against} | {row.seconds:.1f} | {faults} |")
    return "\n".join(lines)
