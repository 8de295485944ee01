"""What the steps of a run cost in multiply-adds, from the sizes of its models: the most that a shortcut can save."""

from __future__ import annotations

from ..config import LuminaConfig
from ..models.shortcut import ShortcutConfig
from .methods import MLCache
from .schedule import keep_masked, step_kinds

FRAME = 4  # tokens around an image: boa, boi, eoi, eoa
PROMPT = 48  # tokens of an ordinary prompt; the canvas has many more


def step_costs(base: LuminaConfig, head: ShortcutConfig | None, kinds: list[str], rows: int, columns: int) -> list[int]:
    """Multiply-adds of each step of one branch and one image; elementwise work, which no matrix product does, is left out.

    Args:
        head: None where no step is a shortcut step.
        kinds: "full", "shortcut", "partial" (ML-Cache) or "skipped", for each step.
        rows, columns: of the canvas, all of it masked at the start.
    """
    positions = PROMPT + FRAME + rows * (columns + 1)
    masked = [rows * columns, *keep_masked(rows * columns, len(kinds))]
    code_logits = base.d_model * base.tokens.codebook_size
    recomputed = MLCache().recomputed(positions)
    of_kind = {
        "full": features(base, positions, positions),
        "partial": features(base, recomputed, positions) + recomputed * code_logits,
        "shortcut": prediction(head, positions) if head else 0,
        "skipped": 0,
    }
    return [of_kind[kind] + (masked[step] * code_logits if kind != "skipped" else 0) for step, kind in enumerate(kinds)]


def features(base: LuminaConfig, computed: int, positions: int) -> int:
    """Multiply-adds of the base model's features at ``computed`` of all positions."""
    keys = base.d_model // base.n_heads * base.n_kv_heads
    return base.n_layers * computed * _layer(base.d_model, keys, base.mlp_hidden_size, positions)


def prediction(head: ShortcutConfig, positions: int) -> int:
    """Multiply-adds of one shortcut step. The tokens that are new at a step are few, so what is computed of them is left out."""
    ends = 2 * head.d_model * head.width if head.projects else 0
    reading = _layer(head.width, 0, head.mlp_hidden_size, 0) if head.cross_attention else _layer(head.width, head.width, head.mlp_hidden_size, positions)
    return positions * (ends + head.n_blocks * (reading + _layer(head.width, head.width, head.mlp_hidden_size, positions)))


def _layer(width: int, keys: int, hidden: int, positions: int) -> int:
    """Multiply-adds of one block at one position that attends to so many: queries, keys, values, attention, its projection, the MLP."""
    return width * (2 * width + 2 * keys) + 2 * positions * width + 3 * width * hidden


def largest_speed_up(base: LuminaConfig, head: ShortcutConfig | None, kinds: list[str], rows: int, columns: int) -> float:
    """Against the vanilla method: N / (b + (N - b) c) with the cost of each step."""
    vanilla = step_kinds(["full"] * len(kinds), rows * columns)
    return sum(step_costs(base, None, vanilla, rows, columns)) / sum(step_costs(base, head, kinds, rows, columns))
