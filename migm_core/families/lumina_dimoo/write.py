"""Write Lumina-DiMOO's models: the published folder layout, and one self-contained file."""

import json
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from ...checkpoints.convert import as_it_is, base_tensors
from ...checkpoints.files import find_file, read_json
from ...checkpoints.load import load_checkpoint
from ...checkpoints.names import TEXT_TOKENIZER_KEY
from ...checkpoints.quantised import METADATA
from ...checkpoints.save import stored
from ...checkpoints.source import SINGLE, TensorSource
from ...checkpoints.write import Pending, put_tensors
from ...tokenizers.amused_vq import ImageTokenizer
from ...writing import as_json, folder_for, replacing
from .backbone import Lumina
from .files import IMAGE_TOKENIZER_WEIGHTS, folder_of
from .names import BASE_PREFIX, IMAGE_TOKENIZER_PREFIX, QUANTISABLE

KIND_BASE, KIND_FILE = "lumina-base", "lumina-checkpoint"


def save_checkpoint(
    folder: str | Path,
    base: Lumina,
    image_tokenizer: ImageTokenizer,
    tokenizer_json: str,
    settings: dict,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a published-layout folder. Its files replace older ones only when all of them are written.

    Args:
        base: with all output rows.
        tokenizer_json: the text tokenizer, as in its tokenizer.json.
        settings: sensible defaults of a run, for generation_config.json.
        dtype: to store weights in; None keeps theirs.

    Raises:
        OSError: naming the file that cannot be written.
    """
    folder = Path(folder)
    if (base.output_start, base.output_stop) != (0, base.config.vocab_size):
        raise ValueError(f"The base model holds output rows {base.output_start} to {base.output_stop} only; saving needs all {base.config.vocab_size}.")
    weights = {BASE_PREFIX + name: tensor for name, tensor in stored(base, dtype).items()}
    texts = {
        "config.json": _as_json(base.config.to_json()),
        "vqvae/config.json": _as_json(image_tokenizer.config.to_json()),
        "generation_config.json": _as_json(settings),
        "tokenizer.json": tokenizer_json,
        "tokenizer_config.json": _as_json({"tokenizer_class": "PreTrainedTokenizerFast"}),
    }
    with ExitStack() as files:
        files.enter_context(folder_for(folder / "vqvae"))
        put_tensors(files.enter_context(replacing(folder / SINGLE)), weights, {"kind": KIND_BASE})
        put_tensors(files.enter_context(replacing(folder / "vqvae" / IMAGE_TOKENIZER_WEIGHTS)), stored(image_tokenizer, dtype), {})
        for name, text in texts.items():
            files.enter_context(replacing(folder / name)).write(text.encode("utf-8"))


def convert(path: Path, source: TensorSource, dtype: torch.dtype | None) -> tuple[dict[str, Tensor | Pending], dict[str, str]]:
    """Make one self-contained file of a folder, or of a GGUF file beside a folder's others, as tensors and metadata; of another file, the same
    with the base model's tensors in another dtype.

    Raises:
        CheckpointError: the source does not hold together.
    """
    folder = folder_of(path)
    if folder is None:
        others = {name: as_it_is(source, name) for name in source.shapes if not name.startswith(BASE_PREFIX)}
        metadata = {key: value for key, value in source.metadata.items() if dtype is None or key != METADATA}
        return base_tensors(source, BASE_PREFIX, dtype, QUANTISABLE) | others, metadata
    load_checkpoint(path, device="meta")  # checks everything but the numbers
    vqvae = TensorSource.open(find_file(folder / "vqvae", IMAGE_TOKENIZER_WEIGHTS))
    metadata = {
        "kind": KIND_FILE,
        "config": json.dumps(read_json(folder / "config.json")),
        "vqvae_config": json.dumps(read_json(folder / "vqvae" / "config.json")),
    }
    if (folder / "generation_config.json").exists():
        metadata["generation_config"] = json.dumps(read_json(folder / "generation_config.json"))
    tensors = base_tensors(source, BASE_PREFIX, dtype, QUANTISABLE) | {IMAGE_TOKENIZER_PREFIX + name: as_it_is(vqvae, name) for name in vqvae.shapes}
    text = (folder / "tokenizer.json").read_bytes()
    tensors[TEXT_TOKENIZER_KEY] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return tensors, metadata


def _as_json(values: dict) -> str:
    return as_json(values, indent=2, sort_keys=True) + "\n"
