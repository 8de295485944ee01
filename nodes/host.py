"""The host's memory manager, operations, progress, previews and model folders: the only file that knows them."""

from __future__ import annotations

import os
import time
import weakref
from dataclasses import dataclass, field, fields
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import folder_paths
import torch
import torch.nn.functional as F
from comfy_api.latest import io
from latent_preview import MAX_PREVIEW_RESOLUTION
from PIL import Image
from torch import Tensor

from ..migm_core.canvas import Canvas
from ..migm_core.checkpoints import Checkpoint, CheckpointError, TensorSource, build_head, load_checkpoint
from ..migm_core.checkpoints.load import BASE_PREFIX, SETTINGS, TEXT_TOKENIZER_KEY, check_head
from ..migm_core.checkpoints.source import read_json
from ..migm_core.config import LuminaConfig
from ..migm_core.pipeline import DEMO, DEMO_HEAD, Pipeline, Settings
from ..migm_core.sampling.sampler import StepReport
from ..migm_core.sampling.sequence import Branch

BUNDLED = "bundled demo"
FOLDER = "migm"  # under the host's models folder, and the key in extra_model_paths.yaml
OTHER_FOLDER = "diffusion_models"  # where people keep single files
WEIGHTS = {".safetensors", ".pth", ".pt", ".bin"}
# Tensors by which a file is known, as its header names them.
BASE = f'"{BASE_PREFIX}wte.weight"'
TEXT_TOKENIZER = f'"{TEXT_TOKENIZER_KEY}"'
HEAD = '"blocks.0.self_attn.ff_proj.weight"'
PREVIEW_SHARE = 0.05  # of the sampling time


def schema(*, search_aliases: list[str], **values) -> io.Schema:
    """A node's schema; with aliases on the hosts that know them."""
    if any(f.name == "search_aliases" for f in fields(io.Schema)):
        values["search_aliases"] = search_aliases
    return io.Schema(**values)


# Model folders


def register_model_folder() -> None:
    """Make ``models/migm`` a model folder of the host, beside those that extra_model_paths.yaml gives it."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(extensions) | WEIGHTS)


def models() -> dict[str, Path]:
    """Names and paths of the base models that are there, the bundled one first."""
    found = {BUNDLED: DEMO} if (DEMO / "config.json").exists() else {}
    files = _files(FOLDER)
    for name in _checkpoint_folders(files):
        found[name] = next(path.parent for file, path in files.items() if _folder(file) == name)
    found |= {name: path for name, path in files.items() if BASE in _holds(path) and not _in_checkpoint(name, found)}
    found |= {f"{OTHER_FOLDER}/{name}": path for name, path in _files(OTHER_FOLDER).items() if {BASE, TEXT_TOKENIZER} <= _holds(path)}
    return found


def heads() -> dict[str, Path]:
    """Names and paths of the shortcut heads that are there, the bundled one first."""
    found = {BUNDLED: DEMO_HEAD} if DEMO_HEAD.exists() else {}
    files = _files(FOLDER)
    folders = _checkpoint_folders(files)
    for name, path in files.items():
        unknown = path.suffix != ".safetensors"  # only reading it whole would tell
        if HEAD in _holds(path) or unknown and not _in_checkpoint(name, folders):
            found[name] = path
    return found


def chosen(name: str, among: dict[str, Path], what: str) -> Path:
    """The path of a dropdown's choice.

    Raises:
        ValueError: it is not, or no longer, there.
    """
    if name not in among:
        there = ", ".join(among) or "nothing yet"
        raise ValueError(f"There is no {what} {name!r}. Found: {there}. Put it in models/{FOLDER}, press R to refresh, and choose it again.")
    return among[name]


def own_settings(path: Path) -> dict:
    """A checkpoint's own settings of a run, without loading it.

    Raises:
        ValueError: its files are bad.
    """
    file = path / "generation_config.json"
    if path.is_dir():
        said = read_json(file) if file.exists() else {}
    else:
        said = TensorSource.open(path).metadata_json("generation_config")
    return SETTINGS | {name: said[name] for name in SETTINGS if said.get(name) is not None}


def stamp(path: Path) -> tuple:
    """What changes when a file, or a file of a checkpoint folder, is replaced."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in files if p.exists())


def _files(folder: str) -> dict[str, Path]:
    names = [name for name in folder_paths.get_filename_list(folder) if Path(name).suffix in WEIGHTS]
    paths = ((name, folder_paths.get_full_path(folder, name)) for name in names)
    return {name.replace(os.sep, "/"): Path(path) for name, path in paths if path}


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _checkpoint_folders(files: dict[str, Path]) -> list[str]:
    """Folders in the published layout: config.json beside model.safetensors or its shards."""
    weights = ((_folder(name), path) for name, path in files.items() if path.name.startswith("model") and path.suffix == ".safetensors")
    return sorted({folder for folder, path in weights if folder and (path.parent / "config.json").exists()})


def _in_checkpoint(name: str, folders) -> bool:
    return any(f"{parent}".replace(os.sep, "/") in folders for parent in Path(name).parents)


_held: dict[tuple, frozenset[str]] = {}


def _holds(path: Path) -> frozenset[str]:
    """Which of BASE, TEXT_TOKENIZER and HEAD a safetensors file holds, by its header; remembered until the file changes."""
    key = stamp(path)
    if path.suffix != ".safetensors" or not key:
        return frozenset()
    if key not in _held:
        with path.open("rb") as file:
            header = file.read(min(int.from_bytes(file.read(8), "little"), 2**24))
        _held[key] = frozenset(name for name in (BASE, TEXT_TOKENIZER, HEAD) if name.encode() in header)
    return _held[key]


# Weights: the host places, casts, offloads and frees them


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A checkpoint whose weights the host owns.

    Attributes:
        name: as in the dropdown.
        checkpoint: its parts; where their weights lie is the host's business.
        base, image_tokenizer: the host's handles on them.
        dtype: that features are computed in.
        preview_seconds: cells of a canvas to the least time that its preview took.
    """

    name: str
    checkpoint: Checkpoint
    base: comfy.model_patcher.ModelPatcher
    image_tokenizer: comfy.model_patcher.ModelPatcher
    dtype: torch.dtype
    preview_seconds: dict[int, float] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.base.load_device

    @property
    def factor(self) -> int:
        """Pixels a cell along each side."""
        return self.checkpoint.image_tokenizer.config.factor


@dataclass(frozen=True, eq=False)
class HeadFile:
    """An opened head. It becomes a module for each base that it meets, since its number of heads is the base's.

    Attributes:
        name: as in the dropdown.
        source: its tensors.
        fitted: the host's handles, by the base's config and dtype.
    """

    name: str
    source: TensorSource
    fitted: dict[tuple[LuminaConfig, torch.dtype], comfy.model_patcher.ModelPatcher] = field(default_factory=dict)

    def fit(self, model: LoadedModel) -> comfy.model_patcher.ModelPatcher:
        """The head for a base model.

        Raises:
            ValueError: it is for another base, or damaged; names both.
        """
        key = (model.checkpoint.base.config, model.dtype)
        if key not in self.fitted:
            offload = model.base.offload_device
            operations = _operations(model.dtype, model.dtype, model.device)
            try:
                head = build_head(self.source, key[0], dtype=model.dtype, device=offload, operations=operations)
            except CheckpointError as error:
                raise ValueError(f"The head {self.name!r} does not fit the model {model.name!r}. {error}") from None
            self.fitted[key] = comfy.model_patcher.ModelPatcher(head, model.device, offload)
        return self.fitted[key]


# Two loaders of one file share its weights, which live as long as a node or a cache of the host holds them.
_models: weakref.WeakValueDictionary[tuple, LoadedModel] = weakref.WeakValueDictionary()
_heads: weakref.WeakValueDictionary[tuple, HeadFile] = weakref.WeakValueDictionary()


def dtypes() -> list[str]:
    """Choices of a loader, "auto" first."""
    fp8 = [str(dtype).removeprefix("torch.") for dtype in (torch.float8_e4m3fn, torch.float8_e5m2)] if comfy.model_management.get_supported_float8_types() else []
    return ["auto", "bf16", "fp16", "fp32", *fp8]


def load_model(name: str, dtype: str) -> LoadedModel:
    """A checkpoint by its name in the dropdown, from memory where it is there already.

    Raises:
        ValueError: there is no such model, or its files are bad.
    """
    path = chosen(name, models(), "model")
    device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    stored, computed = _pick_dtypes(path, dtype, device)
    key = (stamp(path), stored, computed, device)
    model = _models.get(key)
    if model is None:
        checkpoint = load_checkpoint(
            path,
            dtype=computed,
            device=offload,
            operations=_operations(stored, computed, device),
            image_operations=_operations(torch.float32, torch.float32, device),
        )
        base = comfy.model_patcher.ModelPatcher(checkpoint.base, device, offload)
        places = comfy.model_management.vae_device(), comfy.model_management.vae_offload_device()
        image_tokenizer = comfy.model_patcher.ModelPatcher(checkpoint.image_tokenizer.to(places[1]), *places)
        model = _models[key] = LoadedModel(name, checkpoint, base, image_tokenizer, computed)
    return model


def load_head(name: str) -> HeadFile:
    """A head by its name in the dropdown, from memory where it is there already.

    Raises:
        ValueError: there is no such head, or its file is bad.
    """
    path = chosen(name, heads(), "shortcut head")
    head = _heads.get(stamp(path))
    if head is None:
        source = TensorSource.open(path)
        check_head(source)
        head = _heads[stamp(path)] = HeadFile(name, source)
    return head


def _pick_dtypes(path: Path, name: str, device: torch.device) -> tuple[torch.dtype, torch.dtype]:
    """The dtypes that large weights are kept in and that features are computed in: the host's choice where ours is auto."""
    management = comfy.model_management
    supported = [torch.bfloat16, torch.float16, torch.float32]
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if name == "auto":
        source = TensorSource.open(path).prefixed(BASE_PREFIX)
        count = sum(torch.Size(shape).numel() for shape in source.shapes.values())
        stored = management.unet_dtype(device, count, supported, source.dtype() if source.shapes else None)
    else:
        stored = named[name] if name in named else getattr(torch, name)
    return stored, management.unet_manual_cast(stored, device, supported) or stored


def _operations(stored: torch.dtype, computed: torch.dtype, device: torch.device):
    """The host's operations for weights of one dtype computed in another."""
    picked = comfy.ops.pick_operations(stored, computed, load_device=device)

    class Operations(picked):
        class Linear(picked.Linear):
            def __init__(self, *args, dtype=None, **kwargs):
                super().__init__(*args, dtype=stored, **kwargs)

        class Embedding(picked.Embedding):
            def __init__(self, *args, dtype=None, **kwargs):
                # Rows are looked up, not multiplied: 8 bits would cost quality and save no time.
                super().__init__(*args, dtype=stored if stored.itemsize > 1 else torch.bfloat16, **kwargs)

            def forward(self, index: Tensor) -> Tensor:
                if self.weight.device == index.device or self.weight_function:
                    return super().forward(index, out_dtype=computed)
                # Offloaded: a few rows cross the bus instead of the table, a gigabyte in the 8B model.
                return F.embedding(index.to(self.weight.device), self.weight).to(index.device, computed)

    return Operations


# Runs


def prepare(model: LoadedModel, head: HeadFile | None, settings: Settings, branches: list[Branch]) -> Pipeline:
    """Have the host load what a run needs, with room for its activations; a pipeline on the host's device."""
    handles = [model.base, model.image_tokenizer, *([head.fit(model)] if head else [])]
    comfy.model_management.load_models_gpu(handles, memory_required=run_bytes(model, settings, branches) + decode_bytes(model, settings.width, settings.height))
    module = head.fit(model).model if head else None
    return Pipeline(model.checkpoint, module, head.source.path if head else "", device=model.device)


def run_bytes(model: LoadedModel, settings: Settings, branches: list[Branch]) -> int:
    """Most memory that a run's activations need beside the weights, from the sizes of its tensors."""
    config = model.checkpoint.base.config
    size = model.dtype.itemsize
    rows, columns = settings.height // model.factor, settings.width // model.factor
    cells, codes = settings.batch * rows * columns, config.tokens.codebook_size
    lengths = [settings.batch * (branch.prompt.shape[-1] + 4 + rows * (columns + 1)) for branch in branches]
    kept = sum(lengths) * config.d_model * size  # each branch's last features
    if settings.method == "ml-cache":
        kept += sum(lengths) * 2 * config.n_layers * config.n_kv_heads * (config.d_model // config.n_heads) * size
    block = max(lengths) * (config.d_model * (8 * size + 4 * 4) + 3 * config.mlp_hidden_size * size)  # one layer, with its float32 parts
    logits = cells * codes * (len(branches) * size + 4 * 4) + cells // settings.batch * codes * 8  # guided, scores, softmax, noise
    return kept + max(block, logits)


def decode_bytes(model: LoadedModel, width: int, height: int) -> int:
    """Memory to decode one image: three float32 maps at full resolution, of the widest of the last two stages."""
    return width * height * max(model.checkpoint.image_tokenizer.config.block_out_channels[:2]) * 4 * 3


@torch.inference_mode()
def canvas_image(model: LoadedModel, canvas: Canvas) -> Tensor:
    """A canvas as an IMAGE, float32 (B, h, w, 3) on the CPU; unknown cells as in previews.

    The images are decoded one at a time: at 1024x1024 each needs gigabytes.

    Raises:
        CheckpointError: the image tokenizer gives values that are not finite.
    """
    load_image_tokenizer(model, canvas.shape[2] * model.factor, canvas.shape[1] * model.factor)
    pixels = torch.stack([_decode(model, codes, unknown) for codes, unknown in zip(canvas.codes, canvas.unknown.cpu())])
    if not pixels.isfinite().all():
        raise CheckpointError(f"{model.checkpoint.path}: the image tokenizer gives values that are not finite. The file may be damaged: download it again.")
    return pixels.permute(0, 2, 3, 1).contiguous()


@torch.inference_mode()
def encode(model: LoadedModel, images: Tensor) -> Tensor:
    """An IMAGE (B, h, w, 3), its sides multiples of the factor, to codes, int64 (B, H, W) on the CPU."""
    load_image_tokenizer(model, images.shape[2], images.shape[1])
    device = model.image_tokenizer.load_device
    pixels = images[..., :3].permute(0, 3, 1, 2)
    return torch.cat([model.checkpoint.image_tokenizer.encode(image.to(device, torch.float32)).cpu() for image in pixels.split(1)])


def load_image_tokenizer(model: LoadedModel, width: int, height: int) -> None:
    """Have the host load it, with room for one image of so many pixels."""
    comfy.model_management.load_models_gpu([model.image_tokenizer], memory_required=decode_bytes(model, width, height))


@torch.inference_mode()
def _decode(model: LoadedModel, codes: Tensor, unknown: Tensor) -> Tensor:
    """Codes (H, W) to pixels in 0..1, float32 (3, h, w) on the CPU; unknown cells, bool (H, W), as a grey chequerboard."""
    pixels = model.checkpoint.image_tokenizer.decode(codes[None].to(model.image_tokenizer.load_device))[0].float().cpu()
    row, column = (torch.arange(side) * 2 // model.factor for side in pixels.shape[1:])  # two squares a side of each cell
    board = 0.3 + 0.12 * ((row[:, None] + column) % 2)
    hidden = unknown.repeat_interleave(model.factor, 0).repeat_interleave(model.factor, 1)
    return torch.where(hidden, board, pixels)


class Watch:
    """The host's side of a run: its progress bar, the picture filling in, and its stop button.

    Use ``after_step`` as the callback of one or several runs.

    Args:
        model: what draws; its image tokenizer is loaded.
        steps: of all runs together.
    """

    def __init__(self, model: LoadedModel, steps: int):
        self.model, self.steps, self.done = model, steps, 0
        self.bar = comfy.utils.ProgressBar(steps)
        self.start()

    def start(self) -> None:
        """Begin a run, with its weights loaded."""
        self.began, self.event = time.perf_counter(), None
        self.spent = 0.0  # seconds on previews

    def after_step(self, report: StepReport) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._wait_for_last_step()
        self.done += 1
        self.bar.update_absolute(self.done, self.steps, self._preview(report.canvas))

    def _wait_for_last_step(self) -> None:
        """Keep the loop one step ahead of a GPU, not dozens: it stays busy, and bar and stop button mean what they say."""
        if self.model.device.type == "cuda":
            before, self.event = self.event, torch.cuda.Event()
            self.event.record()
            if before is not None:
                before.synchronize()

    def _preview(self, canvas: Canvas):
        """The first image so far, in the host's form, where its time allows."""
        known, cells = self.model.preview_seconds, canvas.codes[0].numel()
        sampled = time.perf_counter() - self.began - self.spent
        if self.spent + known.get(cells, 0) > PREVIEW_SHARE * sampled and (cells in known or self.spent):
            return None
        if self.event is not None:
            self.event.synchronize()  # the step's time is not the preview's
        began = time.perf_counter()
        pixels = _decode(self.model, canvas.codes[0], canvas.unknown[0].cpu())
        image = Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
        took = time.perf_counter() - began
        self.spent += took
        known[cells] = min(took, known.get(cells, took))
        return "JPEG", image, MAX_PREVIEW_RESOLUTION
