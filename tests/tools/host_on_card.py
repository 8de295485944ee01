"""A model of the published size on a card under a host's memory management, by way of the nodes' own functions.

    python tests/tools/stand_in.py FOLDER --layers 32
    cd COMFYUI; python .../tests/tools/host_on_card.py FOLDER                      the host's defaults: dynamic memory, where it has it
    cd COMFYUI; python .../tests/tools/host_on_card.py FOLDER --static             as with --disable-dynamic-vram
    cd COMFYUI; python .../tests/tools/host_on_card.py FOLDER --card 8             a larger card plays one of 8 GiB

To play a smaller card another process takes what is too much, so that the memory is really gone. Prints a JSON object with seconds of each kind of
step, the most memory that torch took, and the sum of the codes, which tells whether cards agree. The first run of a process
waits for what a process needs once; --runs 2 tells of the second as well.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "host"))
from inside import enter  # noqa: E402

OUTSIDE = 0.6  # GiB that the driver and a desktop take
BALLAST = """
import sys, torch
torch.empty(1, device="cuda")
free, total = torch.cuda.mem_get_info()
held = torch.empty(max(0, free - int(float(sys.argv[1]) * 2**30)), dtype=torch.uint8, device="cuda")
print(torch.cuda.mem_get_info()[0], flush=True)
sys.stdin.read()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="A model of the published size under a host's memory management.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of tests/tools/stand_in.py, with shortcut.safetensors in it; or a file beside one")
    parser.add_argument("--head", type=Path, help="(default: FOLDER/shortcut.safetensors)")
    parser.add_argument("--card", type=float, metavar="GIB", help="the card to play (default: the whole one)")
    parser.add_argument("--static", action="store_true", help="without the host's dynamic memory")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--budget", type=int, default=11)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--option", action="append", default=[], help="of the host's main.py, for example --option=--use-sage-attention")
    args = parser.parse_args()
    ballast = None
    if args.card:
        command = [sys.executable, "-c", BALLAST, str(args.card - OUTSIDE)]
        ballast = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ballast.stdout.readline()
    try:
        run(args)
    finally:
        if ballast:
            ballast.kill()


def run(args) -> None:
    base = Path(tempfile.mkdtemp())
    (base / "models/migm").mkdir(parents=True)
    name = "large" if args.folder.is_dir() else "large" + args.folder.suffix
    (base / "models/migm" / name).symlink_to(args.folder.resolve())
    (base / "models/migm/head.safetensors").symlink_to((args.head or args.folder / "shortcut.safetensors").resolve())
    options = [*args.option, *(["--disable-dynamic-vram"] if args.static else [])]
    sys.argv[1:] = [*options, "--base-directory", str(base)]
    sys.path.insert(0, str(Path.cwd()))
    import comfy.options

    comfy.options.enable_args_parsing()
    import cuda_malloc  # noqa: F401  chooses torch's allocator, as the host does before it imports torch

    extension = enter(base, *options, dynamic=not args.static)
    import torch

    sampling, weights, sockets = (extension(f"nodes.{room}") for room in ("run", "host.weights", "sockets"))
    prompt = sockets.PromptText("lighthouse " * 48, "")
    began = time.perf_counter()
    with torch.inference_mode():
        model, head = weights.load_model(name, "auto"), weights.load_head("head.safetensors")
        loading = time.perf_counter() - began
        side = args.size // model.downscale_factor
        canvas = sampling.Canvas.empty(1, side, side)
        for _ in range(args.runs):
            plan = sampling.make_plan(
                model,
                head,
                canvas,
                prompt,
                method="shortcut",
                seed=1,
                steps=args.steps,
                guidance_scale=4.0,
                rule={"temperature": 1.0},
                method_settings={"budget": args.budget},
            )
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            (done,) = sampling.generate(model, head, prompt, canvas, [plan], lambda *step: None)
            seconds = time.perf_counter() - began
            answer = {
                "card": args.card or (torch.cuda.get_device_name() if torch.cuda.is_available() else "none"),
                "patcher": type(model.base).__name__,
                "options": options,
                "dtype": str(model.dtype),
                "weights, GB": round(model.base.model_size() / 1e9, 2),
                "on the card, GB": round(model.base.loaded_size() / 1e9, 2),
                "peak of torch, GB": round(torch.cuda.max_memory_allocated() / 1e9, 2) if torch.cuda.is_available() else None,
                "loading": round(loading, 2),
                "seconds": round(seconds, 2),
                "sampling": round(done.seconds, 2),
                "step_seconds": {kind: round(value, 4) for kind, value in done.step_seconds.items()},
                "speed_up": done.speed_up,
                "codes": int(done.canvas.codes.sum()),
            }
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
