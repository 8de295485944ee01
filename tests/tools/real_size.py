"""What a model of the published size costs on this machine: loading it, the memory of a run, the time of its parts.

    python tests/tools/stand_in.py FOLDER --layers 32      16 GB; 2 layers are enough for all but loading
    python tests/tools/real_size.py load FOLDER
    python tests/tools/real_size.py memory FOLDER
    python tests/tools/real_size.py speed FOLDER
    python tests/tools/real_size.py run FOLDER             32 layers, on a GPU

load      Peak resident memory of loading in bfloat16 and reading every byte of the weights, and the time that takes from a cold
          disk, beside a plain read of the same files. Each repetition is a process of its own, after the files have left the
          page cache.
memory    Bytes alive beside the weights in runs at 1024x1024, counted tensor by tensor and by torch's own allocator, with the
          account of the peak. These are real runs in float32, of a few steps: minutes on a CPU.
speed     Multiply-adds, time and share of this machine's matrix rate of the parts of a step, measured in turn with a plain matrix
          product, and what follows for a run with all layers. Times are one thread's own, so that what else the machine does
          hardly moves them.
run       Whole runs as published (1024x1024, 64 steps, guidance 4) by every way: seconds, the ratio to vanilla beside the one that
          counted operations predict, and the memory that they and the decoding of the image take beside the weights.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

TOOLS = Path(__file__).resolve().parent
sys.path[:0] = [str(TOOLS.parents[1]), str(TOOLS)]

from live_memory import LiveMemory  # noqa: E402
from stand_in import HEAD  # noqa: E402

from migm_core.canvas import Canvas  # noqa: E402
from migm_core.checkpoints import load_checkpoint  # noqa: E402
from migm_core.families.lumina_dimoo.backbone import Lumina  # noqa: E402
from migm_core.families.lumina_dimoo.head import ShortcutHead  # noqa: E402
from migm_core.families.lumina_dimoo.rule import LuminaRule, keep_masked  # noqa: E402
from migm_core.families.lumina_dimoo.tasks import text_guidance  # noqa: E402
from migm_core.pipeline import Pipeline  # noqa: E402
from migm_core.sampling.backbone import Branch  # noqa: E402
from migm_core.sampling.loop import StepReport, sample, sample_tokens  # noqa: E402
from migm_core.sampling.methods import Shortcut  # noqa: E402
from migm_core.sampling.noise import SeededNoise  # noqa: E402
from migm_core.sampling.schedules import full_steps  # noqa: E402
from migm_core.switches import Switches  # noqa: E402

PIECE = 2**24  # bytes read at once
PROMPT = "lighthouse " * 48
STEPS, LAYERS = 64, 32  # as published
BUDGETS = (9, 11, 14)
PRODUCT, LAYER, ENDS = "plain matrix product", "base: a layer", "base: embedding and last norm"
OUTPUT, HEAD_STEP, SAMPLING = "output projection, all tokens", "head: a whole step", "sampling, all tokens, both branches"


def main() -> None:
    parser = argparse.ArgumentParser(description="What a model of the published size costs on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run in (("load", compare_loading), ("memory", measure_memory), ("speed", measure_speed), ("run", measure_runs), ("once", load_once)):
        command = commands.add_parser(name)
        command.add_argument("folder", metavar="FOLDER", type=Path)
        if run in (compare_loading, measure_speed):
            command.add_argument("--repeats", metavar="K", type=int, default=3, help="the least time of so many counts (default: 3)")
        if run is measure_runs:
            command.add_argument("--dtype", default="auto", help="that the model computes in (default: auto)")
            command.add_argument("--device", help="default: cuda where there is one")
            command.add_argument("--budgets", metavar="B", type=int, nargs="*", default=BUDGETS, help=f"default: {' '.join(map(str, BUDGETS))}")
            command.add_argument("--compile", action="store_true", help="with the blocks fused by torch.compile")
        command.set_defaults(run=run)
    args = vars(parser.parse_args())
    run = args.pop("run")
    if run is not load_once:
        print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; {args['folder']}\n", flush=True)
    run(**args)


# Loading.


def compare_loading(folder: Path, repeats: int) -> None:
    """Print peak memory and time of loading, and the time of a plain read."""
    files = weight_files(folder)
    size = sum(path.stat().st_size for path in files)
    plain, loaded = [], []
    for _ in range(repeats):
        forget(files)
        plain.append(read_plainly(files))
        forget(files)
        out = subprocess.run([sys.executable, __file__, "once", folder], capture_output=True, text=True, check=True).stdout
        loaded.append(json.loads(out))
    best = min(loaded, key=lambda times: times["load"] + times["touch"])
    first_use = [run["load"] + run["touch"] for run in loaded]
    memory = {name: max(run[name] for run in loaded) for name in ("peak", "anonymous", "file", "loaded")}
    print(
        f"| | |\n|---|--:|\n| files | {size / 1e9:.2f} GB |\n"
        f"| resident after loading | {memory['loaded'] / 1e9:.2f} GB |\n"
        f"| resident after every byte was read | {(memory['anonymous'] + memory['file']) / 1e9:.2f} GB, "
        f"{memory['file'] / 1e9:.2f} GB of them pages of files |\n"
        f"| peak resident | {memory['peak'] / 1e9:.2f} GB, {memory['peak'] / size:.3f} of the files |\n"
        f"| plain read | {min(plain):.1f} s ({', '.join(f'{t:.1f}' for t in plain)}) |\n"
        f"| load, then read every weight | {best['load']:.2f} + {best['touch']:.1f} s ({', '.join(f'{t:.1f}' for t in first_use)}) |\n"
        f"| ratio | {min(first_use) / min(plain):.2f} |"
    )


def load_once(folder: Path) -> None:
    """Load, read every weight, and print seconds and bytes as JSON."""
    began = time.perf_counter()
    checkpoint = load_checkpoint(folder, dtype="bf16", device="cpu")
    seconds = {"load": time.perf_counter() - began}
    after_loading = resident("VmRSS")
    began = time.perf_counter()
    for model in (checkpoint.base, checkpoint.image_tokenizer):
        for tensor in model.state_dict().values():
            tensor.flatten().view(torch.uint8 if tensor.nbytes % 8 else torch.int64).sum()
    seconds["touch"] = time.perf_counter() - began
    memory = {"loaded": after_loading, "anonymous": resident("RssAnon"), "file": resident("RssFile"), "peak": resident("VmHWM")}
    print(json.dumps(seconds | memory))


def weight_files(folder: Path) -> list[Path]:
    """The base's files and the image tokenizer's, without the head's."""
    return sorted(folder.glob("model*.safetensors")) + sorted(folder.glob("vqvae/*.safetensors"))


def forget(files: list[Path]) -> None:
    """Have the system drop the files' pages from its cache."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_plainly(files: list[Path]) -> float:
    """Seconds to read the files from beginning to end."""
    piece = bytearray(PIECE)
    began = time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(piece):
                pass
    return time.perf_counter() - began


def resident(field: str) -> int:
    """Bytes of a field of this process's status."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":")]
    return int(line.split()[1]) * 1024


# Memory.


def measure_memory(folder: Path) -> None:
    """Print what short runs keep alive beside the weights, in three counts, and the account of the largest."""
    pipeline = Pipeline.load(folder, folder / HEAD, dtype="fp32", device="cpu")
    print(
        f"1024x1024, guidance 4, {pipeline.checkpoint.base.config.n_layers} layers, float32; GB beside the weights\n\n"
        "| method | steps | tensors | allocator | resident |\n|---|---|--:|--:|--:|",
        flush=True,
    )
    accounts = {}
    for method, steps in (("vanilla", 1), ("shortcut", 3)):
        settings = pipeline.settings(method=method, steps=steps, budget=2, width=1024, height=1024, guidance_scale=4.0)
        prompts = pipeline.checkpoint.prompts
        branches = text_guidance(prompts.prompt(PROMPT), prompts.unconditional(), settings.guidance_scale)
        Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory starts anew
        before = resident("VmRSS")
        with LiveMemory() as memory, profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            result = pipeline.sample(branches, settings, Canvas.empty(1, 64, 64))
        counts = memory.peak, allocator_peak(profiler), resident("VmHWM") - before
        kinds = ", ".join(kind for kind, _ in result.step_seconds)
        print(f"| {method} | {kinds} | {' | '.join(f'{count / 1e9:.2f}' for count in counts)} |", flush=True)
        accounts[method] = memory
    for method, memory in accounts.items():
        print(f"\nAlive at the peak of {method}:\n\n| MB | of | shape | operation | place |\n|--:|--:|---|---|---|")
        for made, count in memory.account():
            shape = "x".join(map(str, made.shape))
            print(f"| {made.bytes * count / 1e6:.0f} | {count} | {shape} {str(made.dtype)[6:]} | {made.operation} | {made.place} |")


def allocator_peak(profiler: profile) -> int:
    """Most bytes that torch's allocator held at once of what it gave out during a profile."""
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


# Speed.


def measure_speed(folder: Path, repeats: int) -> None:
    """Print multiply-adds and times of the parts, of two whole steps, and the ratio that a run of all layers would have."""
    torch.set_num_threads(1)
    pipeline = Pipeline.load(folder, folder / HEAD, dtype="fp32", device="cpu")
    base, head = pipeline.checkpoint.base, pipeline.head
    prompts = pipeline.checkpoint.prompts
    prompt = prompts.prompt(PROMPT)
    length = len(prompt) + 4 + 64 * 65
    parts = parts_of_a_step(base, head, length, len(prompt), torch.device("cpu"))
    seconds = {name: float("inf") for name in parts}
    for _ in range(repeats):
        for name in parts:
            for again in (PRODUCT, name):  # the product beside each part, since the machine's rate may change
                began = time.thread_time()
                parts[again]()
                seconds[again] = min(seconds[again], time.thread_time() - began)
    counts = counts_of_parts(base, head, length, len(prompt))
    rate = counts[PRODUCT] / seconds[PRODUCT]
    print(
        f"One branch of 1024x1024, {length} positions, float32. Seconds are of one thread's work, the least of {repeats}; "
        f"a plain product runs at {2 * rate / 1e9:.0f} GFLOP/s.\n\n"
        "| part | multiply-adds, 10^9 | s | share of the matrix rate |\n|---|--:|--:|--:|"
    )
    for name in parts:
        share = f"{counts[name] / seconds[name] / rate:.0%}" if counts[name] > 1e9 else ""
        print(f"| {name} | {counts[name] / 1e9:,.1f} | {seconds[name]:.3f} | {share} |", flush=True)

    shares = [count / 4096 for count in (4096, *keep_masked(4096, STEPS)[:-1])]
    by_count = counts[HEAD_STEP] / (LAYERS * counts[LAYER])
    print(
        f"\nHead over base of {LAYERS} layers: {by_count:.4f} in multiply-adds, {seconds[HEAD_STEP] / (LAYERS * seconds[LAYER]):.4f} in time. N = {STEPS}:\n\n"
        "| B | N / (B + (N - B) head / base) | from the times of all parts | difference |\n|--:|--:|--:|--:|"
    )
    for budget in BUDGETS:
        full = set(full_steps(STEPS, budget))
        vanilla = sum(step_seconds(seconds, LAYERS, share) for share in shares)
        shortcut = sum(step_seconds(seconds, LAYERS if step in full else None, share) for step, share in enumerate(shares))
        formula, timed = predicted_ratio(budget, by_count), vanilla / shortcut
        print(f"| {budget} | {formula:.2f} | {timed:.2f} | {timed / formula - 1:+.1%} |", flush=True)

    measured = two_steps(pipeline, text_guidance(prompt, prompts.unconditional(), 4.0))
    of_parts = step_seconds(seconds, base.config.n_layers, 1.0), step_seconds(seconds, None, keep_masked(4096, 3)[0] / 4096)
    print(
        f"\n| step, two branches | s | from its parts |\n|---|--:|--:|\n| full, layers: {base.config.n_layers} | {measured['full']:.1f} | {of_parts[0]:.1f} |\n"
        f"| shortcut | {measured['shortcut']:.1f} | {of_parts[1]:.1f} |"
    )


def two_steps(pipeline: Pipeline, branches: list[Branch]) -> dict[str, float]:
    """Seconds of the first full step of a run and of the shortcut step after it."""
    times = [time.thread_time()]
    seconds = {}

    def stop(report: StepReport) -> None:
        times.append(time.thread_time())
        seconds[report.kind] = times[-1] - times[-2]
        if report.kind == "shortcut":
            raise Seen

    with suppress(Seen):
        sample(
            pipeline.checkpoint.base,
            branches,
            Canvas.empty(1, 64, 64),
            Shortcut(pipeline.head, 2),
            steps=3,
            rule=LuminaRule(1.0),
            noise=SeededNoise([torch.Generator()]),
            callback=stop,
        )
    return seconds


class Seen(Exception):
    """All that was to be seen of a run."""


def step_seconds(seconds: dict[str, float], layers: int | None, share: float) -> float:
    """Seconds of a step of two branches made of its parts: with so many layers, or of the head; ``share`` of the tokens masked."""
    features = seconds[HEAD_STEP] if layers is None else layers * seconds[LAYER] + seconds[ENDS]
    return 2 * (features + share * seconds[OUTPUT]) + share * seconds[SAMPLING]


def parts_of_a_step(base: Lumina, head: ShortcutHead, length: int, prompt: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """What a step does, each part ready to run by itself at the true sizes; on the meta device it can be counted."""
    width, masked, codes = base.config.d_model, 64 * 64, base.config.tokens.codebook_size
    new = prompt + 64  # the prompt, and what a step unmasks
    block = head.blocks[0]
    with torch.inference_mode():
        features, tokens = torch.randn(1, length, width, device=device), torch.arange(length, device=device)[None]
        narrow, context = (torch.randn(1, size, head.config.width, device=device) for size in (length, new))
        positions = tokens[:, -new:]
        rotary, head_rotary = base.rotary(length, device), head.tables(length, device)
        ratio = torch.full((1,), 0.5, device=device)
        modulation = head.modulation(ratio, torch.float32)
        logits = [torch.randn(1, masked, codes, device=device) for _ in range(2)]
    as_logits = SimpleNamespace(config=base.config, code_logits=lambda logits, positions: logits)
    matrix = base.blocks[0].attn_out.weight

    def sampling():
        if device.type != "meta":
            noise = SeededNoise([torch.Generator()]).draw(0, tokens[:, :masked], codes, "gumbel")
            sample_tokens(as_logits, logits, [tokens[:, :masked]] * 2, [5.0, -4.0], LuminaRule(1.0), noise, (0, STEPS))

    parts = {
        PRODUCT: lambda: features[0, :1024] @ matrix.T,
        LAYER: lambda: base.blocks[0](features, rotary),
        ENDS: lambda: base.ln_f(base.wte(tokens)),
        OUTPUT: lambda: base.code_logits(features[:, :masked]),
        "head: projections in and out": lambda: (head.proj_in(features), head.new_token_proj_in(features[:, :new]), head.proj_out(narrow)),
        "head: cross attention block": lambda: block.cross_attn(narrow, head_rotary, context=context, context_rotary=head_rotary.rows(positions)),
        "head: self attention block": lambda: block.self_attn(narrow, head_rotary),
        "head: modulation, once a run for all steps": lambda: head.modulation(ratio.expand(STEPS), torch.float32),
        HEAD_STEP: lambda: head.step(features, features[:, :new], positions, modulation, head_rotary),
        SAMPLING: sampling,
    }
    return {name: torch.inference_mode()(part) for name, part in parts.items()}


def counts_of_parts(base: Lumina, head: ShortcutHead, length: int, prompt: int) -> dict[str, int]:
    """Multiply-adds of each part of a step."""
    meta = torch.device("meta")
    empty = Lumina(base.config, device=meta), ShortcutHead(head.config, device=meta)
    return {name: multiply_adds(part) for name, part in parts_of_a_step(*empty, length, prompt, meta).items()}


def predicted_ratio(budget: int, head_over_base: float) -> float:
    """Time of vanilla over that of a shortcut run, if features were all that takes time."""
    return STEPS / (budget + (STEPS - budget) * head_over_base)


def multiply_adds(part: Callable[[], object]) -> int:
    """Multiply-adds of the matrix products and the attention of what runs on the meta device."""
    with FlopCounterMode(display=False) as counter:
        part()
    return counter.get_total_flops() // 2


# Whole runs.


def measure_runs(folder: Path, dtype: str, device: str | None, budgets: list[int], compile: bool) -> None:
    """Print time and memory of whole runs."""
    pipeline = Pipeline.load(folder, folder.parent / HEAD if folder.is_file() else folder / HEAD, dtype=dtype, device=device, switches=Switches(compile=compile))
    base, device = pipeline.checkpoint.base, pipeline.device
    prompts = pipeline.checkpoint.prompts
    branches = text_guidance(prompts.prompt(PROMPT), prompts.unconditional(), 4.0)
    length = branches[0].prompt.numel() + 4 + 64 * 65
    counts = counts_of_parts(base, pipeline.head, length, branches[0].prompt.numel())
    by_count = counts[HEAD_STEP] / (base.config.n_layers * counts[LAYER])
    weights = sum(t.nbytes for model in (base, pipeline.head, pipeline.checkpoint.image_tokenizer) for t in model.state_dict().values())
    print(
        f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'}, {base.config.n_layers} layers, {pipeline.dtype}"
        f"{', compiled' if compile else ''}; 1024x1024, {STEPS} steps, guidance 4. Weights: {weights / 1e9:.2f} GB.\n\n"
        "| run | s | ratio | predicted | full step, s | shortcut step, s | GB beside the weights |\n|---|--:|--:|--:|--:|--:|--:|",
        flush=True,
    )

    def sampled(budget: int | None, steps: int = STEPS):
        method = "vanilla" if budget is None else "shortcut"
        settings = pipeline.settings(method=method, steps=steps, budget=budget, width=1024, height=1024, guidance_scale=4.0)
        return pipeline.sample(branches, settings, Canvas.empty(1, 64, 64))

    sampled(2, steps=3)  # kernels are chosen and compiled
    vanilla = None
    for budget in (None, *budgets):
        (result, seconds), peak = with_peak(device, lambda: clocked(lambda: sampled(budget)))
        vanilla = vanilla or seconds
        of_kind = result.median_step_seconds
        steps = " | ".join(f"{of_kind[kind]:.4f}" if kind in of_kind else "" for kind in ("full", "shortcut"))
        ratios = f"{vanilla / seconds:.2f} | {predicted_ratio(budget, by_count):.2f}" if budget else " | "
        print(f"| {f'B = {budget}' if budget else 'vanilla'} | {seconds:.2f} | {ratios} | {steps} | {peak} |", flush=True)
    (_, seconds), peak = with_peak(device, lambda: clocked(lambda: pipeline.decode(result.canvas).cpu()))
    print(f"\nDecoding: {seconds:.2f} s; GB beside the weights: {peak}")


def clocked(do: Callable[[], object]) -> tuple[object, float]:
    """What ``do`` returns, and its seconds."""
    began = time.perf_counter()
    done = do()
    return done, time.perf_counter() - began


def with_peak(device: torch.device, do: Callable[[], object]) -> tuple[object, str]:
    """What ``do`` returns, and the most GB of tensors on the device meanwhile beside those before, where the device counts them."""
    if device.type != "cuda":
        return do(), "not counted"
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    done = do()
    return done, f"{(torch.cuda.max_memory_allocated(device) - before) / 1e9:.2f}"


if __name__ == "__main__":
    main()
