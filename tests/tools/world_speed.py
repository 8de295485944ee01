"""How fast the lakeside world renders: python tests/tools/world_speed.py [--threads 1 2] [--device cuda]

Prints pictures a second, and the ratio to one bicubic upsampling of the same pictures from half their size, timed beside it.
"""

import argparse
import platform
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from migm_core.worlds.lakeside import prompts, render, sample_scenes  # noqa: E402


def seconds(function, device: torch.device) -> float:
    """The best of three runs, after one to warm up."""
    times = []
    for _ in range(4):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="on a CPU")
    parser.add_argument("--size", type=int, default=256, help="pixels along each side")
    parser.add_argument("--count", type=int, help="pictures; default 32 on a CPU, 2048 on a GPU")
    options = parser.parse_args()
    device = torch.device(options.device)
    count = options.count or (2048 if device.type == "cuda" else 32)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {machine}, {count} pictures of {options.size}x{options.size} pixels")
    scenes = sample_scenes(count, torch.Generator(device).manual_seed(0))
    half = torch.rand(count, 3, options.size // 2, options.size // 2, device=device)
    for threads in options.threads if device.type == "cpu" else [torch.get_num_threads()]:
        torch.set_num_threads(threads)
        rendering = seconds(lambda: render(scenes, options.size), device)
        upsampling = seconds(lambda: F.interpolate(half, scale_factor=2.0, mode="bicubic"), device)
        print(f"{threads} threads: {count / rendering:.0f} pictures/s; one takes as long as {rendering / upsampling:.1f} bicubic upsamplings of it")
    writing = seconds(lambda: prompts(scenes, 0), torch.device("cpu"))
    print(f"{count / writing:.0f} prompts/s")


if __name__ == "__main__":
    main()
