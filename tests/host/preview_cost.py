"""What previews cost: their share of the time of sampling, in runs of the bundled model by way of the nodes' own function.

    cd COMFYUI; venv/bin/python .../tests/host/preview_cost.py

For each size the first run, when the cost of a preview is not known yet, and the median of the next.
"""

import platform
import statistics
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from inside import enter  # noqa: E402

extension = enter(tempfile.mkdtemp(), *([] if torch.cuda.is_available() else ["--cpu"]))

run, weights, wires = (extension(f"nodes.{room}") for room in ("run", "weights", "wires"))
SIZES = (64, 128, 256)  # pixels
RUNS = 7  # of each size

watches = []


class Kept(run.Watch):
    """Each run's, to be asked when it is over."""

    def __init__(self, *args):
        super().__init__(*args)
        watches.append(self)


run.Watch = Kept
model, head = weights.load_model("bundled demo", "fp32"), weights.load_head("bundled demo")
prompt = wires.PromptText("a large red heart left of a small yellow star on a navy background", "")
print(f"{platform.machine()}, {model.device}, {torch.get_num_threads()} threads, torch {torch.__version__}; preset Balanced, {RUNS} runs of each size")
for size in SIZES:
    canvas = run.Canvas.empty(1, size // model.factor, size // model.factor)
    shares = []
    for seed in range(RUNS):
        plan = run.make_plan(model, head, canvas, preset="Balanced", method="shortcut", seed=seed)
        with torch.inference_mode():
            (drawn,) = run.draw(model, head, prompt, canvas, [plan], lambda step: None)
        shares.append(watches[-1].spent / drawn.seconds)
    print(f"{size}x{size}: {drawn.seconds:.2f} s of sampling; previews {shares[0]:.1%} of it in the first run, {statistics.median(shares[1:]):.1%} later")
