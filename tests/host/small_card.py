"""A model of the published size on cards with less memory than it has weights, by way of the nodes' own functions.

    python tests/stand_in.py FOLDER --layers 32
    cd COMFYUI; python .../tests/host/small_card.py FOLDER GIBIBYTES

A card of any size plays one with so much memory: torch may take no more of it, and the host sees no more. One process, one card.
Prints a JSON object with what the host left on the card, the most memory in use, the time, and the sum of the codes drawn, which
tells whether cards agree.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from inside import enter  # noqa: E402

OUTSIDE = 0.6  # GiB that the driver and a desktop take
STEPS, BUDGET = 64, 11

folder, card = Path(sys.argv[1]).resolve(), float(sys.argv[2])
free, total = torch.cuda.mem_get_info()
limit = int((card - OUTSIDE) * 2**30)
torch.cuda.set_per_process_memory_fraction(limit / total)
torch.cuda.mem_get_info = lambda device=None: (limit - torch.cuda.memory_reserved(), limit)

base = Path(tempfile.mkdtemp())
(base / "models/migm").mkdir(parents=True)
(base / "models/migm/large").symlink_to(folder)
(base / "models/migm/large.safetensors").symlink_to(folder / "shortcut.safetensors")
extension = enter(base)
run, weights, wires = (extension(f"nodes.{room}") for room in ("run", "weights", "wires"))

with torch.inference_mode():
    model, head = weights.load_model("large", "auto"), weights.load_head("large.safetensors")
    canvas = run.Canvas.empty(1, 1024 // model.factor, 1024 // model.factor)
    plan = run.make_plan(model, head, canvas, preset="Custom", method="shortcut", seed=1, steps=STEPS, budget=BUDGET)
    began = time.perf_counter()
    (done,) = run.draw(model, head, wires.PromptText("lighthouse " * 48, ""), canvas, [plan], lambda step: None)
    seconds = time.perf_counter() - began
print(
    json.dumps(
        {
            "card, GiB": card,
            "dtype": str(model.dtype),
            "weights, GB": round(model.base.model_size() / 1e9, 2),
            "on the card, GB": round(model.base.loaded_size() / 1e9, 2),
            "peak, GB": round(torch.cuda.max_memory_allocated() / 1e9, 2),
            "peak reserved, GB": round(torch.cuda.max_memory_reserved() / 1e9, 2),
            "seconds": round(seconds, 2),
            "sampling": round(done.seconds, 2),
            "step_seconds": {kind: round(value, 4) for kind, value in done.step_seconds.items()},
            "codes": int(done.canvas.codes.sum()),
        }
    )
)
