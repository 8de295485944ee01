"""What previews cost: their share of the time of sampling, in runs of the bundled model by way of the nodes' own function.

    cd COMFYUI; venv/bin/python .../tests/host/preview_cost.py

For each size the first run, when the cost of a preview is not known yet, and all runs together.
"""

import platform
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from inside import enter, own_numbers  # noqa: E402

extension = enter(tempfile.mkdtemp(), "--preview-method", "auto", *([] if torch.cuda.is_available() else ["--cpu"]))

run, weights, sockets = (extension(f"nodes.{room}") for room in ("run", "host.weights", "sockets"))
SIZES = (64, 128, 256)  # pixels
RUNS = 20  # of each size

model, head = weights.load_model("bundled demo", "fp32"), weights.load_head("bundled demo")
prompt = sockets.PromptText("a red house left of a yellow tree at sunset", "")
print(f"{platform.machine()}, {model.device}, {torch.get_num_threads()} threads, torch {torch.__version__}; {RUNS} runs of each size")
for size in SIZES:
    canvas = run.Canvas.empty(1, size // model.downscale_factor, size // model.downscale_factor)
    first = None
    for seed in range(RUNS):
        plan = run.make_plan(model, head, canvas, prompt, method="shortcut", seed=seed, **own_numbers(model))
        with torch.inference_mode():
            run.generate(model, head, prompt, canvas, [plan], lambda step, width, height: None)
        account = model.previews[canvas.codes.numel()]
        first = first or account.first / account.sampled
    print(
        f"{size}x{size}: {account.sampled / RUNS:.2f} s of sampling a run, {account.least:.3f} s a preview; the first preview took {first:.1%} of the first run, "
        f"all {RUNS} runs' others {account.spent / account.sampled:.1%} of their time",
        flush=True,
    )
