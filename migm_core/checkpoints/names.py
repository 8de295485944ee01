"""Map tensor names in files to the published ones: prefixes that training and hosts add are stripped.

    module._orig_mod.blocks.0.self_attn.q_proj.weight   as distributed and compiled training leave it
    model.diffusion_model.blocks.0.q_proj.weight        as single files of ComfyUI begin

Each family says which names are published, and which prefixes it accepts.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import CheckpointError

TEXT_TOKENIZER_KEY = "tokenizer_json"  # in a single file: tokenizer.json as bytes
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # anywhere in a name: PyTorch's own
BEFORE = r"((?:[^.]+\.)*?)"  # a prefix: how a part's pattern begins


@dataclass(frozen=True)
class Part:
    """One kind of model in a file.

    Attributes:
        pattern: of its names; the first group is the prefix, the second the published name.
        mark: a name, or the end of one, that only this part has.
        before: words that a prefix may consist of, between dots.
        example: a published name, for messages.
        loose: names that belong to it without a prefix.
    """

    what: str
    pattern: re.Pattern
    mark: str
    before: frozenset[str]
    example: str
    loose: frozenset[str] = frozenset()


def map_names(names: Iterable[str], path: Path) -> dict[str, str]:
    """Map published names to the names in a file. Unknown names map to themselves.

    Raises:
        CheckpointError: two names mean one tensor, or all of a model's names have an unknown prefix.
    """
    from ..families import FAMILIES  # which import this package

    plain = {name: ".".join(part for part in name.split(".") if part not in WRAPPERS) for name in names}
    targets = next(filter(None, (family.parts(list(plain.values())) for family in FAMILIES)), {})
    prefixes = {part: _prefixes(part, plain, path) for part in targets}
    found: dict[str, str] = {}
    for name, short in plain.items():
        ours = _published(short, targets, prefixes) or name
        if ours in found:
            raise CheckpointError(f"{path} holds {found[ours]} and {name}, which are one tensor here, {ours}. Expected one of them: save the model without the other.")
        found[ours] = name
    return found


def _prefixes(part: Part, plain: dict[str, str], path: Path) -> list[str]:
    """The known prefixes of a part's names in this file, the longest first."""
    found = {match[1]: name for name, short in plain.items() if (match := part.pattern.fullmatch(short))}
    known = [prefix for prefix in found if part.before.issuperset(prefix.split(".")[:-1])]
    marks = [name for name, short in plain.items() if is_or_ends(short, part.mark)]
    if marks and not known:
        raise CheckpointError(
            f"{path} names the {part.what}'s tensors in an unknown way: {marks[0]}. Expected {part.example}, or one of "
            f"{', '.join(sorted(part.before | WRAPPERS))} before it: rename them."
        )
    return sorted(known, key=len, reverse=True)


def _published(short: str, targets: dict[Part, str], prefixes: dict[Part, list[str]]) -> str | None:
    for part, target in targets.items():
        match = part.pattern.fullmatch(short)
        if match and match[1] in prefixes[part]:
            return target + match[2]
    if short == TEXT_TOKENIZER_KEY:
        return short
    for part, target in targets.items():
        if short in part.loose:
            return target + short
    # Other names under a model's prefix count as its tensors; check_keys refuses them.
    under = [(prefix, target) for part, target in targets.items() for prefix in prefixes[part] if short.startswith(prefix)]
    if not under:
        return None
    prefix, target = max(under, key=lambda pair: len(pair[0]))
    return target + short.removeprefix(prefix)


def is_or_ends(name: str, mark: str) -> bool:
    return name == mark or name.endswith("." + mark)
