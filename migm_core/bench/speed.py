"""How long a full step and a shortcut step take at the published sizes: python -m migm_core.bench.speed --family lumina-dimoo --batch 1 16

With --task, the same of tasks: of those with pictures, which read them in their prompts, of painting, with half of the picture to generate, and of
answering a question on a picture, see ``reading_speed``.

Weights are random: time does not depend on them, and nothing is read or fetched. A step is all that the sampling loop does at it: features of
all guidance branches, logits, guidance, sampling, unmasking, half way through a run. Where the weights of all layers would take more than 2 GB,
fewer are built: a step is timed with them and without any, and each layer left out is added at the time of one of them.

Beside each step stands its share of this machine's matrix rate, which a plain product of the model's own sizes is timed for in turn with the
steps. On one thread (OMP_NUM_THREADS=1) times are that thread's own, so that a busy machine hardly moves them. Last comes the speed-up of a run of
N steps with a budget of b, N / (b + (N - b) c): once with c, shortcut step over full step, as timed, and once as counted in multiply-adds.
"""

import platform
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..canvas import Canvas
from ..command import Parser, answered, whole
from ..devices import resolve_device, resolve_dtype
from ..families import FAMILIES, Family, family_named
from ..modules import uninitialised
from ..sampling.backbone import Backbone, BackboneConfig, Branch, Head
from ..sampling.cost import PROMPT
from ..sampling.loop import sample_tokens, unmask_most_confident
from ..sampling.methods import METHODS
from ..sampling.methods.method import Step
from ..sampling.noise import SeededNoise
from ..sampling.rule import branch_weights
from .clock import clocked
from .reading_speed import READING, measure_reading, picture_tokens

SIDE = 32  # tokens along each side of an image of 512x512 pixels, 16 a token; of input pictures, too
PAINTED = 0.5  # of a picture, in painting
ROOM = 2e9  # bytes of layers that are built where nothing else is asked for
BRANCHES = 2  # of guidance
HEAD_RATIO = 2  # of the published heads


@dataclass(frozen=True)
class Speed:
    """What a full and a shortcut step cost, all branches and images together.

    Attributes:
        full, shortcut: seconds.
        full_macs, shortcut_macs: multiply-adds.
        rate: multiply-adds a second of a plain matrix product.
        steps, budget: of the run that the speed-up is of.
    """

    full: float
    shortcut: float
    full_macs: int
    shortcut_macs: int
    rate: float
    steps: int
    budget: int

    @property
    def full_share(self) -> float:
        """Of the matrix rate."""
        return self.full_macs / self.full / self.rate

    @property
    def shortcut_share(self) -> float:
        """Of the matrix rate."""
        return self.shortcut_macs / self.shortcut / self.rate

    @property
    def speed_up(self) -> float:
        """Of a run against the vanilla method, as timed."""
        return speed_up(self.steps, self.budget, self.shortcut / self.full)

    @property
    def counted_speed_up(self) -> float:
        """The same, as counted."""
        return speed_up(self.steps, self.budget, self.shortcut_macs / self.full_macs)


def speed_up(steps: int, budget: int, c: float) -> float:
    """N / (b + (N - b) c) (MIGM-Shortcut, arXiv 2602.23996)."""
    return steps / (budget + (steps - budget) * c)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m migm_core.bench.speed", description="Time full and shortcut steps at the published sizes, with random weights.")
    names = [family.name for family in FAMILIES]
    parser.add_argument("--family", choices=names, nargs="+", default=names, help="default: all")
    tasks = [name for family in FAMILIES for name in (*family.tasks, *([READING] if family.text_settings else ()))]
    parser.add_argument("--task", choices=tasks, nargs="+", help="default: what a bare prompt or class asks for")
    parser.add_argument("--batch", metavar="B", type=whole(1), nargs="+", default=[1, 16], help="images of a run (default: 1 16)")
    parser.add_argument("--layers", metavar="K", type=whole(1), help="of the base that are built (default: as many as take 2 GB)")
    parser.add_argument("--repeats", metavar="R", type=whole(1), default=3, help="the least time of so many counts; of one, it includes warming up (default: 3)")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--dtype", metavar="T", default="auto", help="auto, bf16, fp16 or fp32 (default: auto)")
    args = parser.parse_args(argv)
    wanted = {name: _tasks_of(family_named(name), args.task) for name in args.family}
    if not any(wanted.values()):
        raise ValueError(f"No model of {' or '.join(args.family)} has the task {' or '.join(args.task)}. Choose another --family or --task.")
    device = resolve_device(args.device)
    dtype = resolve_dtype(args.dtype, device)
    print(f"{machine(device)}, torch {torch.__version__}, {str(dtype).removeprefix('torch.')}\n")
    for name, tasks in wanted.items():
        if tasks:
            family = family_named(name)
            print_speeds(family, family.config(), dtype, device, args.batch, args.layers, args.repeats, tasks)


def _tasks_of(family: Family, asked: Sequence[str] | None) -> list[str | None]:
    """Those of the tasks that are asked for that a family has; None alone where none is asked for, see ``print_speeds``."""
    return [None] if asked is None else [task for task in asked if task in family.tasks or task == READING and family.text_settings]


def machine(device: torch.device) -> str:
    """A GPU by its name, a CPU by its own and the threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", cpu.read_text()) if cpu.exists() else []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def print_speeds(
    family: Family,
    config: BackboneConfig,
    dtype: torch.dtype,
    device: torch.device,
    batches: list[int],
    layers: int | None,
    repeats: int,
    tasks: Sequence[str | None] = (None,),
) -> None:
    """Print a table of each task of one family; None is what a bare prompt or class asks for."""
    each = config.block_weights / config.n_layers * dtype.itemsize
    built = min(config.n_layers, layers or max(1, int(ROOM / each)))
    steps, budget = family.defaults["steps"], family.defaults["budget"]
    left_out = f"; {built} of {config.n_layers} layers timed, the others added" if built < config.n_layers else ""
    backbone = filled(family.backbone(replace(config, n_layers=built), dtype=dtype, device=device, operations=uninitialised))
    head = filled(family.new_head(config, HEAD_RATIO).to(device, dtype))
    for task in tasks:
        if task == READING:
            print_reading(family, config, backbone, repeats, left_out)
            continue
        work = work_of(family, config, task)
        said = f"cfg {family.defaults['guidance_scale']:g}" if task is None else f"{task}, {work.in_words(config)}"
        print(f"{family.title}, {SIDE}x{SIDE} tokens, {said}, N = {steps}, b = {budget}{left_out}\n", flush=True)
        print("| batch | full step, s | share of matrix rate | shortcut step, s | share | c | speed-up | counted | share of counted |\n" + "|--:" * 9 + "|", flush=True)
        for batch in batches:
            speed = measure(family, config, backbone, head, batch, steps=steps, budget=budget, repeats=repeats, work=work)
            print(
                f"| {batch} | {speed.full:.3f} | {speed.full_share:.0%} | {speed.shortcut:.4f} | {speed.shortcut_share:.0%} | {speed.shortcut / speed.full:.3f} "
                f"| {speed.speed_up:.2f} | {speed.counted_speed_up:.2f} | {speed.speed_up / speed.counted_speed_up:.0%} |",
                flush=True,
            )
        print(flush=True)


def print_reading(family: Family, config: BackboneConfig, backbone: Backbone, repeats: int, left_out: str) -> None:
    """Print what keeping keys and values saves an answer."""
    settings = family.text_settings()
    speed = measure_reading(config, backbone, settings.length, settings.block, repeats)
    print(f"{family.title}, {READING}: a picture of {speed.picture:,} tokens, an answer of {settings.length} in blocks of {settings.block}, a token a pass{left_out}\n")
    print("| full pass, s | cached pass, s | c | speed-up | counted |\n" + "|--:" * 5 + "|")
    print(f"| {speed.full:.3f} | {speed.cached:.4f} | {speed.cached / speed.full:.3f} | {speed.speed_up:.2f} | {speed.counted_speed_up:.2f} |\n", flush=True)


@dataclass(frozen=True)
class Work:
    """What a task asks of a step, for one image.

    Attributes:
        prompts: tokens before the canvas, of each guidance branch.
        read: how many of the first one's are of pictures: the head reads them at every step.
        generated: share of the canvas.
    """

    prompts: tuple[int, ...]
    read: int = 0
    generated: float = 1.0

    def in_words(self, config: BackboneConfig, side: int = SIDE) -> str:
        lengths = " + ".join(f"{config.sequence_length(prompt, side, side):,}" for prompt in self.prompts)
        return f"{len(self.prompts)} branches of {lengths} tokens" + (f", {self.generated:.0%} generated" if self.generated < 1 else "")


def work_of(family: Family, config: BackboneConfig, task: str | None, side: int = SIDE) -> Work:
    """What a task takes with pictures of the canvas's size, under guidance."""
    plain = Work((1 if family.takes == "classes" else PROMPT,) * BRANCHES)
    if task is None:
        return plain
    task = family.task(task)
    if task.paints:
        return replace(plain, generated=PAINTED)
    if not task.guides_by_pictures:
        return plain
    read = len(task.pictures) * picture_tokens(config, side)
    return Work((PROMPT + read, PROMPT + read, PROMPT), read)


@torch.no_grad()
def filled(model: nn.Module) -> nn.Module:
    """Small random weights, so that no sum overflows and no number is so small that a CPU computes it slowly."""
    for tensor in model.parameters():
        tensor.uniform_(-0.05, 0.05)
    return model


@torch.inference_mode()
def measure(
    family: Family,
    config: BackboneConfig,
    backbone: Backbone,
    head: Head,
    batch: int,
    *,
    steps: int,
    budget: int,
    repeats: int,
    side: int = SIDE,
    work: Work | None = None,
) -> Speed:
    """Time steps of a base, which may have fewer layers than its config says, and of its head.

    Args:
        config: of the base with all layers.
        repeats: the least of so many times counts; what is compared is timed in turn.
        side: of the canvas, in tokens.
        work: of a task; None for what a bare prompt or class asks for.
    """
    work = work or work_of(family, config, None, side)
    half_way = HalfWay(family, backbone, head, batch, steps, budget, side, work)
    product, product_macs = matrix_product(config, backbone, side)
    layers, built = config.n_layers, len(backbone.blocks)
    # The head reads what the step before it has left: a full step with layers.
    timed = {"without layers": half_way.full_without_layers, "full": half_way.full, "shortcut": half_way.shortcut}
    if built == layers:
        del timed["without layers"]
    seconds = {name: float("inf") for name in (*timed, "product")}
    product()  # the first call of a process is slower
    for _ in range(repeats):
        for name, do in timed.items():
            # What all is held against is the quickest: it is timed again before each of the others.
            seconds["product"] = min(seconds["product"], clocked(product, backbone.device))
            seconds[name] = min(seconds[name], clocked(do, backbone.device))
    of_layers = (seconds["full"] - seconds["without layers"]) / built * (layers - built) if built < layers else 0.0
    lengths = [config.sequence_length(prompt, side, side) for prompt in work.prompts]
    logits = len(lengths) * half_way.masked.shape[1] * config.width * config.codebook_size
    return Speed(
        full=seconds["full"] + of_layers,
        shortcut=seconds["shortcut"],
        full_macs=batch * (sum(config.pass_macs(length, length) for length in lengths) + logits),
        shortcut_macs=batch * (sum(head.config.step_macs(length, 0 if branch else work.read) for branch, length in enumerate(lengths)) + logits),
        rate=product_macs / seconds["product"],
        steps=steps,
        budget=budget,
    )


class HalfWay:
    """A run that stands still half way: its next step, full or by the head, again and again with as many masked and new tokens.

    Attributes:
        masked: tokens, int64 (B, n).
    """

    def __init__(self, family: Family, backbone: Backbone, head: Head, batch: int, steps: int, budget: int, side: int, work: Work | None = None):
        work = work or work_of(family, backbone.config, None, side)
        self.backbone, self.head, self.side, self.tokens = backbone, head, side, side * side
        self.rule, self.steps, self.index = family.rule(), steps, steps // 2
        self.canvas = Canvas.empty(batch, side, side, backbone.device)
        # Neither a prompt's ids nor the scales change what is computed.
        scale, others = family.defaults["guidance_scale"], len(work.prompts) - 1
        self.sequences = [
            backbone.sequence(Branch(torch.zeros(length, dtype=torch.int64), -scale if branch else 1 + others * scale, prompt_visible=not branch), self.canvas)
            for branch, length in enumerate(work.prompts)
        ]
        generated = round(self.tokens * work.generated)
        before = [generated, *self.rule.keep(generated, self.tokens, steps)]
        self.keep = before[self.index + 1]
        order = torch.arange(self.tokens, device=backbone.device).expand(batch, -1)
        self.masked, self.new = order[:, : before[self.index]], order[:, before[self.index] : before[self.index - 1]]
        self.noise = SeededNoise.of_seeds(range(batch), backbone.device)
        method = METHODS["shortcut"].build({"budget": budget}, head, family.method_fields)
        self.kinds = method.kinds(steps)
        self.run = method.start(backbone, self.sequences, self.rule.mask_ratios(before[:-1], self.tokens))

    def full(self) -> None:
        self._step("full")

    def shortcut(self) -> None:
        self._step("shortcut")

    def full_without_layers(self) -> None:
        """What a full step takes beside its layers."""
        blocks = self.backbone.blocks
        self.backbone.blocks = blocks[:0]
        try:
            self._step("full")
        finally:
            self.backbone.blocks = blocks

    def _step(self, kind: str) -> None:
        """As in ``sampling.loop.sample``."""
        # The method goes by a step's index, and takes the step of the kind that is nearest to half way.
        nearest = min((index for index, each in enumerate(self.kinds) if each == kind), key=lambda index: abs(index - self.index))
        draws = self.backbone.config.codebook_size if self.rule.code_noise else 0
        sampled, log_probability, confidence, *_ = sample_tokens(
            self.backbone,
            self.run.features(Step(nearest, self.masked, self.new)),
            [sequence.positions[self.masked] for sequence in self.sequences],
            branch_weights([sequence.weight for sequence in self.sequences], self.rule.ramp(self.index, self.steps)),
            self.rule,
            self.noise.draw(self.index, self.masked, draws, self.rule.position_noise(self.index)),
            (self.index, self.steps),
        )
        codes = self.canvas.codes.flatten(1).clone()
        unmask_most_confident(sampled, confidence, self.masked, self.keep, codes, self.sequences, log_probability)


def matrix_product(config: BackboneConfig, backbone: Backbone, side: int) -> tuple[Callable[[], Tensor], int]:
    """One image's positions times a matrix of the base's MLP, in its dtype; and how many multiply-adds that is."""
    positions, width, hidden = config.sequence_length(PROMPT, side, side), config.width, config.mlp_hidden_size
    factory_kwargs = {"dtype": backbone.dtype, "device": backbone.device}
    x, weight = torch.rand(positions, width, **factory_kwargs), torch.rand(hidden, width, **factory_kwargs)
    result = torch.empty(positions, hidden, **factory_kwargs)
    return lambda: torch.mm(x, weight.T, out=result), positions * width * hidden


if __name__ == "__main__":
    sys.exit(answered(main, "speed"))
