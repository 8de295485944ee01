"""Build models from opened files: every key checked before the first tensor is read."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from ..config import LuminaConfig
from ..models import quantized, uninitialised
from ..models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from ..models.lumina import Lumina
from ..models.shortcut import ShortcutConfig, ShortcutHead
from ..prompts import PromptEncoder
from ..settings import Settings
from ..trained import Trained
from .errors import CheckpointError
from .files import find_file, locate, read_file, read_json
from .names import BASE_PREFIX, IMAGE_TOKENIZER_PREFIX, TEXT_TOKENIZER_KEY
from .quantised import (
    DESCRIPTION,
    SCALE,
    WEIGHT,
    can_be_quantised,
    check_computable,
    description_bytes,
    plainly_spelled,
    quantised_layers,
    whole,
)
from .recognise import SUFFIXES
from .shapes import check_keys, check_sizes, count_parts, require, size_of
from .source import Reader, TensorSource

IMAGE_TOKENIZER_WEIGHTS = "diffusion_pytorch_model.safetensors"

# What a run uses where nothing else is asked for: the published settings; a checkpoint's generation_config.json overrides.
SETTINGS = {"width": 1024, "height": 1024, "steps": 64, "budget": 11, "guidance": 4.0, "temperature": 1.0}

SMALL = 100 * 10**6  # weights; fewer make layers so narrow that half precision saves no time


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a checkpoint holds, ready to draw.

    Attributes:
        path: where it came from.
        base, image_tokenizer: the models.
        prompts: text to token ids.
        settings: sensible defaults of a run: width, height, steps, budget, guidance, temperature.
        trained: what the model was trained for.
    """

    path: Path
    base: Lumina
    image_tokenizer: ImageTokenizer
    prompts: PromptEncoder
    settings: dict = field(default_factory=lambda: dict(SETTINGS))
    trained: Trained = Trained()


def resolve_dtype(name: str | torch.dtype, device: torch.device | str, weights: int | None = None) -> torch.dtype:
    """"auto", "bf16", "fp16", "fp32" or a torch dtype, for a device and a model of so many weights, or of many where None.

    ``auto`` is float32 for a small model; else bfloat16 where the device computes it fast, or float16 on a GPU and float32 on a CPU.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(name, torch.dtype):
        return name
    named = {
        "bf16": torch.bfloat16,
        "bfloat16": torch.bfloat16,
        "fp16": torch.float16,
        "float16": torch.float16,
        "fp32": torch.float32,
        "float32": torch.float32,
    }
    if name in named:
        return named[name]
    if name != "auto":
        raise ValueError(f"Unknown dtype {name!r}. Expected auto, {', '.join(named)}.")
    if weights is not None and weights < SMALL:
        return torch.float32
    kind = torch.device(device).type
    if kind == "cpu":
        return torch.bfloat16 if _cpu_has_fast_bfloat16() else torch.float32
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.float16


def _cpu_has_fast_bfloat16() -> bool:
    """Whether bfloat16 products run in hardware; elsewhere they are many times slower than float32."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(probe() for name in probes if (probe := getattr(torch.cpu, name, None)))


def load_checkpoint(
    path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: torch.device | str = "cpu",
    output_rows=None,
    operations=uninitialised,
    image_operations=uninitialised,
    reader: Reader | None = None,
) -> Checkpoint:
    """Load a published-layout folder, a single self-contained .safetensors file, or a .gguf file beside such a folder's others.

    Weights stay memory-mapped where they need no conversion and no other device. Those that the file keeps quantised stay
    so, and ``dtype`` is what they are computed in.

    Args:
        device: on meta everything is checked, but of the weights nothing except headers is read: so a checkpoint is inspected.
        operations, image_operations: namespaces of layers in the place of torch.nn, the base's and the image tokenizer's. Where they give a
            layer another dtype than they are asked for, its weights have that. A layer that makes no room for a weight takes it as it
            lies in the file. With ``loads_quantised = True`` their Linear loads what lies beside a quantised weight by itself.
        reader: a host's own way to map .safetensors files, see ``TensorSource.open``.

    Raises:
        CheckpointError: naming the file and the key.
    """
    path = locate(path)
    data = torch.device(device).type != "meta"
    source = TensorSource.open(path, reader, data=data)
    weights = sum(torch.Size(shape).numel() for shape in source.prefixed(BASE_PREFIX).shapes.values())
    dtype = resolve_dtype(dtype, device, weights)
    if path.is_dir() or path.suffix.lower() in SUFFIXES["gguf"]:
        folder = path if path.is_dir() else path.parent
        config = read_json(folder / "config.json"), str(folder / "config.json")
        image_config = read_json(folder / "vqvae" / "config.json"), str(folder / "vqvae" / "config.json")
        image_source = TensorSource.open(find_file(folder / "vqvae", IMAGE_TOKENIZER_WEIGHTS), reader, data=data)
        text_path = folder / "tokenizer.json"
        text_tokenizer = read_file(text_path, "Expected the checkpoint's fast tokenizer: download the whole folder.")
        generation = read_json(folder / "generation_config.json") if (folder / "generation_config.json").exists() else {}
    else:
        _require_self_contained(source)
        config = source.metadata_json("config"), f"{path}: config"
        image_config = source.metadata_json("vqvae_config"), f"{path}: vqvae_config"
        image_source = source.prefixed(IMAGE_TOKENIZER_PREFIX)
        text_tokenizer, text_path = source.get(TEXT_TOKENIZER_KEY).numpy().tobytes(), path
        generation = source.metadata_json("generation_config")
    base = build_base(*config, source.prefixed(BASE_PREFIX), output_rows=output_rows, dtype=dtype, device=device, operations=operations)
    image_tokenizer = build_image_tokenizer(*image_config, image_source, device=device, operations=image_operations)
    codes = image_tokenizer.config.num_vq_embeddings
    if codes != base.config.tokens.codebook_size:
        raise CheckpointError(
            f"{path}: the image tokenizer has {codes} codes, the base model {base.config.tokens.codebook_size}. They are not of one checkpoint."
        )
    prompts = PromptEncoder.read(text_tokenizer, base.config.tokens, text_path)
    check_token_ids(prompts.trusted, base.config, str(text_path), config[1])
    try:
        trained = Trained.from_json(generation.get("trained"), str(path))
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    return Checkpoint(path, base, image_tokenizer, prompts, run_settings(generation, path, image_tokenizer.config.factor), trained)


def check_token_ids(tokenizer: Tokenizer, config: LuminaConfig, tokenizer_name: str, config_name: str) -> None:
    """Every token that a prompt may hold must be a row of the embedding table.

    Raises:
        CheckpointError: naming the first that is not.
    """
    for name, token in asdict(config.tokens).items():
        if token >= config.vocab_size and name != "codebook_size":
            raise CheckpointError(f"{config_name}: tokens.{name} is {token}, but the embedding table has {config.vocab_size} rows.")
    last = max(tokenizer.get_vocab().values(), default=0)
    if last >= config.vocab_size:
        raise CheckpointError(
            f"{tokenizer_name} has a token {last}, but the embedding table has {config.vocab_size} rows. They are not of one checkpoint."
        )


def run_settings(values: dict, path: Path, factor: int) -> dict:
    """A checkpoint's own settings of a run: those of its generation_config, checked, and the published ones in the place of others.

    Args:
        factor: pixels a token, of its image tokenizer.

    Raises:
        CheckpointError: naming the first that is no number, or out of its range.
    """
    settings = {}
    for name, default in SETTINGS.items():
        value = default if values.get(name) is None else values[name]
        kinds = (int,) if isinstance(default, int) else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            expected = "a number" if float in kinds else "a whole number"
            raise CheckpointError(f"{path}: {name} in generation_config is {value!r:.80}, expected {expected}.")
        settings[name] = value
    if values.get("budget") is None and settings["steps"] != SETTINGS["steps"]:
        settings["budget"] = min(max(settings["steps"], 1), max(2, round(settings["steps"] / SETTINGS["steps"] * SETTINGS["budget"])))
    of_its_own = {} if values.get("width") or values.get("height") else {"width": factor, "height": factor}  # then a run is asked for a size
    try:
        Settings(**settings | of_its_own, method="shortcut" if settings["steps"] > 1 else "vanilla").check(factor)
    except ValueError as error:
        raise CheckpointError(f"{path}: in generation_config, {error}") from None
    return settings


def build_base(
    values: dict, config_name: str, source: TensorSource, *, output_rows=None, dtype=None, device="cpu", operations=uninitialised
) -> Lumina:
    """The base model from its config and tensors, in evaluation mode.

    Raises:
        CheckpointError: a config that asks for another architecture, or tensors that do not fit it.
    """
    try:
        config = LuminaConfig.from_json(values, source=config_name)
    except (ValueError, TypeError) as error:
        raise CheckpointError(str(error)) from None
    # These bound the model that is built.
    require(source, ("wte.weight", "blocks.0.ff_proj.weight"), what="Lumina-DiMOO base model", prefix=BASE_PREFIX)
    # The table may be padded past what the config says: the file is right.
    config = replace(config, vocab_size=size_of(source, "wte.weight", 0))
    codes_end = config.tokens.image_codes + config.tokens.codebook_size
    if codes_end > config.vocab_size:
        raise CheckpointError(
            f"{source.path}: the embedding table has {config.vocab_size} rows, but the image codes end at token {codes_end}. "
            f"Is {config_name} of another model? A model with other token ids names them there under \"tokens\"."
        )
    source = plainly_spelled(source)
    check_sizes(config_name, source, {
        "n_layers": (config.n_layers, count_parts(source, "blocks.")),
        "d_model": (config.d_model, size_of(source, "wte.weight", 1)),
        "mlp_hidden_size": (config.mlp_hidden_size, size_of(source, "blocks.0.ff_proj.weight", 0)),
    })  # fmt: skip
    plan = Lumina(config, output_rows=output_rows, dtype=dtype, device="meta", operations=uninitialised)
    expected = {name: tuple(t.shape) for name, t in plan.state_dict().items()}
    expected["ff_out.weight"] = (config.vocab_size, config.d_model)
    layers = quantised_layers(source, BASE_PREFIX)
    for layer, about in layers.items():
        if layer + WEIGHT in expected:
            expected |= {name: source.shapes[name] for name in about.companions.values()}
            if about.format not in quantized.FORMATS:
                expected[layer + WEIGHT] = source.shapes[layer + WEIGHT]  # packed, as only its format knows
    check_keys(source, expected, what="Lumina-DiMOO base model", prefix=BASE_PREFIX)
    inner = {layer: about for layer, about in layers.items() if can_be_quantised(layer + WEIGHT, expected[layer + WEIGHT])}
    by_host = getattr(operations, "loads_quantised", False)
    check_computable(source, {layer: about for layer, about in layers.items() if not (by_host and layer in inner)}, BASE_PREFIX)
    model = Lumina(config, output_rows=output_rows, dtype=dtype, device="meta", operations=quantized if inner and operations is uninitialised else operations)
    rows = {"ff_out.weight": (model.output_start, model.output_stop)}
    made = {layer + DESCRIPTION: description_bytes(about.description) for layer, about in inner.items()}
    names = [*plan.state_dict()]
    for layer, module in model.blocks.named_modules(prefix="blocks"):
        if layer in inner and isinstance(module, quantized.Scaled):
            module.keep_scaled(source.dtypes[layer + WEIGHT], source.shapes[layer + SCALE])
            names.append(layer + SCALE)
        elif layer in inner:
            names += {*inner[layer].companions.values(), layer + DESCRIPTION}

    def read(name: str) -> Tensor:
        layer = name.removesuffix(WEIGHT)
        if layer in layers and layer not in inner:
            return whole(source, layer, rows.get(name))
        return made[name] if name in made else source.get(name, rows.get(name))

    return _fill(model, names, read, device)


def build_image_tokenizer(values: dict, config_name: str, source: TensorSource, *, device="cpu", operations=uninitialised) -> ImageTokenizer:
    """The image tokenizer from its config and tensors, always in float32: its activations overflow float16 (force_upcast).

    Raises:
        CheckpointError: a config that asks for another architecture, or tensors that do not fit it.
    """
    try:
        config = ImageTokenizerConfig.from_json(values, config_name)
    except (ValueError, TypeError) as error:
        raise CheckpointError(str(error)) from None
    require(source, ("encoder.conv_out.weight", "quantize.embedding.weight"), what="image tokenizer")
    check_sizes(config_name, source, {
        "the length of block_out_channels": (len(config.block_out_channels), count_parts(source, "encoder.down_blocks.")),
        "layers_per_block": (config.layers_per_block, count_parts(source, "encoder.down_blocks.0.resnets.")),
        "latent_channels": (config.latent_channels, size_of(source, "encoder.conv_out.weight", 0)),
        "num_vq_embeddings": (config.num_vq_embeddings, size_of(source, "quantize.embedding.weight", 0)),
    })  # fmt: skip
    try:
        plan = ImageTokenizer(config, dtype=torch.float32, device="meta", operations=uninitialised)
    except (ValueError, TypeError, RuntimeError) as error:  # groups that do not divide the channels, sizes past all bounds
        raise CheckpointError(f"{config_name}: {error}.") from None
    names = {name: tuple(t.shape) for name, t in plan.state_dict().items()}
    check_keys(source, names, what="image tokenizer")
    return _fill(ImageTokenizer(config, dtype=torch.float32, device="meta", operations=operations), names, source.get, device)


def load_head(path: str | Path, base: LuminaConfig, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> ShortcutHead:
    """Load a shortcut head, .pth or .safetensors, for a base model and in its dtype.

    Raises:
        CheckpointError: a file that is no head, or one for another base.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder. Expected the head's file, for example shortcut.safetensors or dimoo-shortcut.pth.")
    return build_head(TensorSource.open(path), base, dtype=dtype, device=device)


def build_head(source: TensorSource, base: LuminaConfig, *, dtype=None, device="cpu", operations=uninitialised) -> ShortcutHead:
    """The head from its tensors; the architecture follows from their names and shapes, the number of heads from the base."""
    config = head_config(source, base)
    model = ShortcutHead(config, dtype=dtype, device="meta", operations=operations)
    return _fill(model, _check_head_keys(source, config), source.get, device)


def check_head(source: TensorSource) -> ShortcutConfig:
    """What ``head_config`` reads off a head, every key checked.

    Raises:
        CheckpointError: it is no head, or an incomplete one.
    """
    config = head_config(source)
    _check_head_keys(source, config)
    return config


def _check_head_keys(source: TensorSource, config: ShortcutConfig) -> Iterable[str]:
    """The names of a head's tensors, after holding them against the file's."""
    names = {name: tuple(t.shape) for name, t in ShortcutHead(config, device="meta", operations=uninitialised).state_dict().items()}
    check_keys(source, names, what="shortcut head")
    return names


def head_config(source: TensorSource, base: LuminaConfig | None = None) -> ShortcutConfig:
    """A head's architecture, read off its keys and shapes."""
    shapes = source.shapes
    if "ln_f.weight" not in shapes or "blocks.0.self_attn.ff_proj.weight" not in shapes:
        raise CheckpointError(f"{source.path} is not a shortcut head: it lacks ln_f.weight or blocks.0.self_attn.ff_proj.weight.")
    width = size_of(source, "ln_f.weight", 0)
    d_model = size_of(source, "proj_in.weight", 1) or width
    mlp = size_of(source, "blocks.0.self_attn.ff_proj.weight", 0)
    try:
        base = base or LuminaConfig(d_model=d_model, n_heads=1, n_kv_heads=1, n_layers=1, mlp_hidden_size=mlp)
    except ValueError as error:
        raise CheckpointError(f"{source.path} fits no base model: {error}. Download it again.") from None
    if d_model != base.d_model:
        raise CheckpointError(
            f"{source.path} was trained for a base model of width {d_model}, but this base has width {base.d_model}. "
            "Load the head that belongs to this base."
        )
    if width % base.n_heads or (width // base.n_heads) % 2:
        raise CheckpointError(
            f"{source.path} has width {width}, which does not divide into the base's {base.n_heads} heads. Load the head that belongs to this base."
        )
    # Without projections a file cannot tell by its keys whether the first block reads new tokens; ours say it in
    # their metadata, and the published ablation without cross attention has projections.
    said = source.metadata.get("cross_attention")
    cross = said == "true" if said else ("new_token_proj_in.weight" in shapes or "proj_in.weight" not in shapes)
    return ShortcutConfig(
        d_model=d_model,
        n_heads=base.n_heads,
        mlp_hidden_size=mlp,
        rms_norm_eps=base.rms_norm_eps,
        rope_theta=base.rope_theta,
        n_blocks=count_parts(source, "blocks."),
        bottleneck_ratio=d_model / width,
        time_embedding="adaLN_modulation.weight" in shapes,
        cross_attention=cross,
    )


def _fill(model: nn.Module, names: Iterable[str], read: Callable[[str], Tensor], device) -> nn.Module:
    """Give a model its tensors, each in the dtype and on the device of the room that the model made for it; where it made none, as it is."""
    room = dict(model.named_parameters())
    state = {}
    for name in names:
        tensor = read(name)
        state[name] = tensor.to(device=device, dtype=room[name].dtype) if name in room else tensor
    model.requires_grad_(False).load_state_dict(state, assign=True)
    return model.eval()


def _require_self_contained(source: TensorSource) -> None:
    needed = [key for key in ("config", "vqvae_config") if key not in source.metadata]
    folder = source.path.parent
    if needed or TEXT_TOKENIZER_KEY not in source:
        raise CheckpointError(
            f"{source.path} holds weights only, without the config, tokenizer and image tokenizer that belong to them. "
            f"Load the folder of the checkpoint{f', {folder},' if (folder / 'config.json').exists() else ''} or a file made from it with "
            "`migm convert FOLDER FILE.safetensors`."
        )
    if source.dtypes[TEXT_TOKENIZER_KEY] != torch.uint8 or len(source.shapes[TEXT_TOKENIZER_KEY]) != 1:
        raise CheckpointError(f"{source.path}: {TEXT_TOKENIZER_KEY} is no row of bytes, but should be tokenizer.json as uint8. Convert or download it again.")
