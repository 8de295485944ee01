"""Choose the seeds of the bundled models' workflows: for each run the first from 1 on whose pictures show what is asked for, by the world's judge.

    python tests/tools/choose_seeds.py

Prints what tests/demo_workflows.py and tests/maskgit_workflow.py say. After a change, run tests/make_workflows.py and tests/make_thumbnails.py.
"""

import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from demo_workflows import FEATHER, OTHER_PROMPT, OUTPAINT_PROMPT, PROMPT, SIDE, STRIP  # noqa: E402
from maskgit_workflow import CLASSES  # noqa: E402

from migm_core.pipeline import Pipeline  # noqa: E402
from migm_core.result import Result  # noqa: E402
from migm_core.worlds import lakeside  # noqa: E402


def pixels(images: list[Image.Image]) -> torch.Tensor:
    """Images as the judge takes them."""
    return torch.stack([torch.from_numpy(np.array(each)).permute(2, 0, 1) for each in images]).float() / 255


def shows(prompt: str) -> Callable[[Result], list]:
    return lambda result: lakeside.judge(pixels(result.images), lakeside.parse([prompt] * len(result.images)))


def shows_classes(result: Result) -> list:
    return lakeside.judge_classes(pixels(result.images), torch.tensor([lakeside.CLASS_NAMES.index(name) for name in CLASSES]))


def first_right(name: str, run: Callable[[int], Result], judge: Callable[[Result], list]) -> Result:
    """The result of the first seed that is right."""
    for seed in count(1):
        result = run(seed)
        verdicts = judge(result)
        if all(verdict.right for verdict in verdicts):
            print(f"{name} = {seed}", flush=True)
            return result
        print(f"    {seed}: {[verdict.faults for verdict in verdicts if not verdict.right]}", flush=True)


def main() -> None:
    demo = Pipeline.load("demo", dtype="fp32")
    start = first_right("SEED", lambda seed: demo.generate(PROMPT, seed=seed), shows(PROMPT))
    known = demo.encode(demo.decode(start.canvas))
    hole = torch.zeros_like(known.masked)
    hole[:, :, hole.shape[2] // 2 :] = True
    first_right("INPAINT_SEED", lambda seed: demo.generate(OTHER_PROMPT, canvas=known.masked_with(hole), seed=seed), shows(OTHER_PROMPT))
    painting = {"task": "paint", "images": start.images[0].crop((0, 0, STRIP, SIDE)), "extend": (0, 0, SIDE - STRIP, 0), "feather": FEATHER}
    first_right("OUTPAINT_SEED", lambda seed: demo.generate(OUTPAINT_PROMPT, **painting, seed=seed), shows(OUTPAINT_PROMPT))
    maskgit = Pipeline.load("demo-classes", dtype="fp32")
    first_right("SEED of MaskGIT", lambda seed: maskgit.generate(list(CLASSES), seed=seed), shows_classes)


if __name__ == "__main__":
    main()
