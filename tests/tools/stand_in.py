"""A stand-in for the published checkpoint and its head: the published layout, names, sizes, shards and dtypes, with random weights.

    python tests/tools/stand_in.py FOLDER --layers 32

writes 16 GB, as fast as the disk takes them and with little memory. The folder then holds what a user would have downloaded, and
the head as shortcut.safetensors.
"""

import argparse
import json
import sys
from functools import cache, partial
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from migm_core.checkpoints.source import INDEX  # noqa: E402
from migm_core.checkpoints.write import Pending, write_tensors  # noqa: E402
from migm_core.families.lumina_dimoo.backbone import Lumina  # noqa: E402
from migm_core.families.lumina_dimoo.config import SPECIAL_TOKENS, LuminaConfig  # noqa: E402
from migm_core.families.lumina_dimoo.family import LuminaDiMOO  # noqa: E402
from migm_core.families.lumina_dimoo.files import BASE_PREFIX, IMAGE_TOKENIZER_WEIGHTS  # noqa: E402
from migm_core.families.lumina_dimoo.head import ShortcutConfig, ShortcutHead  # noqa: E402
from migm_core.tokenizers.amused_vq import ImageTokenizer, ImageTokenizerConfig  # noqa: E402

SHARD_BYTES = 5 * 10**9
HEAD = "shortcut.safetensors"
SYSTEM_PROMPT = {"Generate": 36289, "an": 289, "image": 3972, "according": 4631, "to": 297, "the": 268, "text": 3019, "prompt": 12166, ".": 13}


def write_stand_in(
    folder: Path, config: LuminaConfig, image: ImageTokenizerConfig, *, dtype=torch.bfloat16, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a checkpoint folder and the head that fits it."""
    folder.mkdir(parents=True, exist_ok=True)
    base = planned(Lumina(config, output_rows="all", device="meta"), dtype, BASE_PREFIX)
    write_shards(folder, base, shard_bytes)
    values = config.to_json()
    del values["tokens"]  # ours; the published file knows only one layout
    write_json(folder / "config.json", values)
    (folder / "tokenizer.json").write_text(text_tokenizer(config).to_str())
    write_tensors(folder / "vqvae" / IMAGE_TOKENIZER_WEIGHTS, planned(ImageTokenizer(image, device="meta"), torch.float32), {})
    write_json(folder / "vqvae" / "config.json", image.to_json())
    head = ShortcutConfig(config.d_model, config.n_heads, config.mlp_hidden_size)
    write_tensors(folder / HEAD, planned(ShortcutHead(head, device="meta"), dtype), LuminaDiMOO().head_metadata(head))


def planned(model: torch.nn.Module, dtype: torch.dtype, prefix: str = "") -> dict[str, Pending]:
    """Tensors of a model's names and shapes, to be made when they are written."""
    tensors = {}
    for k, (name, tensor) in enumerate(model.state_dict().items()):
        shape = tuple(tensor.shape)
        tensors[prefix + name] = Pending(shape, dtype, partial(random_tensor, shape, spread(name, shape), dtype, 7919 * k))
    return tensors


def spread(name: str, shape: tuple[int, ...]) -> float | None:
    """Standard deviation that keeps activations in bounds; None for a norm's weights, which are 1, and 0 for biases."""
    if len(shape) == 1:
        return 0.0 if name.endswith("bias") else None
    return 1.0 if "wte" in name or "embedding" in name else torch.Size(shape[1:]).numel() ** -0.5


def random_tensor(shape: tuple[int, ...], spread: float | None, dtype: torch.dtype, offset: int) -> Tensor:
    """Normal numbers read off one block of them, from an offset and around its end."""
    if not spread:
        return torch.full(shape, 1.0 if spread is None else 0.0, dtype=dtype)
    block = random_block(spread, dtype)
    tensor = torch.empty(torch.Size(shape).numel(), dtype=dtype)
    at, begin = 0, offset % len(block)
    while at < len(tensor):
        count = min(len(tensor) - at, len(block) - begin)
        tensor[at : at + count] = block[begin : begin + count]
        at, begin = at + count, 0
    return tensor.view(shape)


@cache
def random_block(spread: float, dtype: torch.dtype) -> Tensor:
    """About four million numbers; as many as no row length divides, so that a matrix has no two rows alike."""
    noise = torch.randn(2**22 - 3, generator=torch.Generator().manual_seed(0))
    return noise.mul_(spread).to(dtype)


def write_shards(folder: Path, tensors: dict[str, Pending], shard_bytes: int) -> None:
    """Files of at most ``shard_bytes``, in the order of the tensors, and their index."""
    shards: list[dict[str, Pending]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and size(shards[-1]) + size({name: tensor}) > shard_bytes:
            shards.append({})
        shards[-1][name] = tensor
    names = [f"model-{k + 1:05}-of-{len(shards):05}.safetensors" for k in range(len(shards))]
    for file, shard in zip(names, shards):
        write_tensors(folder / file, shard, {})
    weight_map = {name: file for file, shard in zip(names, shards) for name in shard}
    write_json(folder / INDEX, {"metadata": {"total_size": size(tensors)}, "weight_map": weight_map})


def size(tensors: dict[str, Pending]) -> int:
    """Bytes of all tensors."""
    return sum(torch.Size(tensor.shape).numel() * tensor.dtype.itemsize for tensor in tensors.values())


def text_tokenizer(config: LuminaConfig) -> Tokenizer:
    """A word a token, all words one token but those of the system prompt; special tokens at their published ids."""
    special = {text: getattr(config.tokens, name) for text, name in SPECIAL_TOKENS.items()}
    tokenizer = Tokenizer(models.WordLevel({"[unknown]": 0, **SYSTEM_PROMPT, **special}, unk_token="[unknown]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint of the published layout and sizes, with random weights, and its head.")
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--layers", metavar="N", type=int, default=32, help="16 GB with the published 32; 2 GB and 0.4 GB a layer (default: 32)")
    args = parser.parse_args()
    write_stand_in(args.folder, LuminaConfig(n_layers=args.layers), ImageTokenizerConfig())
    total = sum(path.stat().st_size for path in args.folder.rglob("*") if path.is_file())
    print(f"{args.folder}: {args.layers} layers, {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
