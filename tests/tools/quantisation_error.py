"""How far a converted checkpoint is from the one it was made from.

    migm convert MODEL MODEL-fp8.safetensors --dtype fp8
    python tests/tools/quantisation_error.py MODEL MODEL-fp8.safetensors

Both see the same sequences: prompts of the bundled models' world, before canvases of which a share is known. Computed in float32.
"""

import argparse
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from migm_core.canvas import Canvas  # noqa: E402
from migm_core.checkpoints import Checkpoint, load_checkpoint  # noqa: E402
from migm_core.pipeline import Pipeline  # noqa: E402
from migm_core.sampling.backbone import Branch, at_positions  # noqa: E402
from migm_core.sampling.loop import masked_positions  # noqa: E402
from migm_core.worlds import lakeside  # noqa: E402

SHARES = (0.0, 0.25, 0.5, 0.75)  # of the tokens that are known


@dataclass(frozen=True)
class Errors:
    """Means over prompts and shares, at the masked tokens and without guidance.

    Attributes:
        feature: norm of the features' difference over that of the features.
        divergence: KL(original || converted) of the codes' probabilities, in nats a token.
        likeliest: share of the tokens at which the likeliest code is the same one.
    """

    feature: float
    divergence: float
    likeliest: float


@torch.inference_mode()
def compare(original: str | Path, converted: str | Path, *, prompts: int = 8, side: int | None = None, steps: int = 8) -> Errors:
    """Compare two checkpoints.

    Args:
        side: of the canvas, in tokens; None for the checkpoint's own size.
        steps: in which the original samples the known tokens; 0 for codes at random.
    """
    checkpoint = load_checkpoint(original, dtype="fp32")
    scenes = lakeside.sample_scenes(prompts, torch.Generator().manual_seed(0), "test", lakeside.BUNDLED)
    cases = [case for index, prompt in enumerate(lakeside.prompts(scenes, 0)) for case in _cases(checkpoint, prompt, index, side, steps)]
    before = [_predicted(checkpoint, *case) for case in cases]
    checkpoint = load_checkpoint(converted, dtype="fp32")
    measured = []
    for case, (features, logits) in zip(cases, before):
        other_features, other_logits = _predicted(checkpoint, *case)
        p, q = logits.log_softmax(-1), other_logits.log_softmax(-1)
        feature = (other_features - features).norm() / features.norm()
        likeliest = (logits.argmax(-1) == other_logits.argmax(-1)).float().mean()
        measured.append(torch.stack([feature, (p.exp() * (p - q)).sum(-1).mean(), likeliest]))
    return Errors(*torch.stack(measured).mean(0).tolist())


def _cases(checkpoint: Checkpoint, prompt: str, index: int, side: int | None, steps: int) -> list[tuple[Tensor, Canvas]]:
    """A prompt's tokens with a canvas of each share."""
    downscale_factor, settings = checkpoint.image_tokenizer.config.downscale_factor, checkpoint.settings
    height, width = (side, side) if side else (settings["height"] // downscale_factor, settings["width"] // downscale_factor)
    if steps:
        canvas = Pipeline(checkpoint, None).generate(prompt, width=width * downscale_factor, height=height * downscale_factor, steps=steps, seed=index).canvas
    else:
        codes = torch.randint(checkpoint.base.config.tokens.codebook_size, (1, height, width), generator=torch.Generator().manual_seed(index))
        canvas = Canvas(codes, torch.zeros_like(codes, dtype=torch.bool))
    return [(checkpoint.prompts.prompt(prompt), canvas.varied(1 - share, index)) for share in SHARES]


def _predicted(checkpoint: Checkpoint, prompt: Tensor, canvas: Canvas) -> tuple[Tensor, Tensor]:
    """Features (n, d_model) and logits (n, codes) at the masked tokens."""
    sequence = checkpoint.base.sequence(Branch(prompt, 1.0), canvas)
    positions = sequence.positions[masked_positions(canvas)[0]]
    features = at_positions(checkpoint.base.features(sequence), positions)
    return features[0], checkpoint.base.code_logits(features, positions)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="How far a converted checkpoint is from the one it was made from.")
    parser.add_argument("original", metavar="MODEL", help="a folder or a file")
    parser.add_argument("converted", metavar="CONVERTED", nargs="+", help="what `migm convert --dtype` made of it")
    parser.add_argument("--prompts", metavar="K", type=int, default=8)
    parser.add_argument("--side", metavar="N", type=int, help="of the canvas, in tokens (default: the model's own)")
    parser.add_argument("--steps", metavar="N", type=int, default=8, help="in which known tokens are sampled; 0 takes codes at random (default: 8)")
    args = parser.parse_args()
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; {args.prompts} prompts, known shares {SHARES}")
    for path in args.converted:
        errors = compare(args.original, path, prompts=args.prompts, side=args.side, steps=args.steps)
        print(f"{path}: feature error {errors.feature:.4f}, KL {errors.divergence:.6f} nats, likeliest code the same {errors.likeliest:.2%}")


if __name__ == "__main__":
    main()
