"""Run by the host's own Python, in the host's folder, with a base directory: sample with weights kept in several ways.

No second device is needed: what the host offloads is cast and moved by the same calls, here from the CPU to the CPU.
The model "large" is more than the memory of a card that it is made to believe in. With --dynamic as a second argument the host's
dynamic memory is on. Prints one JSON object.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from inside import enter, own_numbers  # noqa: E402

extension = enter(sys.argv[1], "--cpu", dynamic="--dynamic" in sys.argv[2:])
import comfy.cli_args  # noqa: E402
import comfy.model_management as management  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402

folders, pictures, run, weights, sockets = (extension(f"nodes.{room}") for room in ("host.folders", "host.pictures", "run", "host.weights", "sockets"))
host_text = extension("nodes.host.text")
inputs, reading, understanding = (extension(f"migm_core.families.lumina_dimoo.{room}") for room in ("inputs", "reading", "understanding"))
checkpoints = extension("migm_core.checkpoints")
PROMPT = sockets.PromptText("a large red house on a snowy shore", "")
CLASS = sockets.ClassList("3")
MASKGIT, MASKGIT_HEAD = "maskgit/MaskGIT/MaskGIT_ImageNet_tiny.pth", "maskgit-shortcut.pth"
SEED = 4


def make_plan(model, head, canvas, seed: int, method: str = "shortcut"):
    """With the model's own numbers."""
    return run.make_plan(model, head, canvas, asked(model), method=method, seed=seed, **own_numbers(model))


def asked(model):
    """A prompt, or a class, as the model takes it."""
    return CLASS if model.checkpoint.family.takes == "classes" else PROMPT


def ready(model, head, method: str = "shortcut"):
    """What a run needs, loaded."""
    canvas = run.canvas_for(model, asked(model), head, None)
    plan = make_plan(model, head, canvas, SEED, method)
    branches = run.branches_of(model, asked(model), plan.settings)
    pipeline = weights.prepare(model, head if method == "shortcut" else None, plan.settings, branches)
    return pipeline, plan.settings, branches, canvas


def codes(model, head, before=None, method: str = "shortcut") -> list[int]:
    pipeline, settings, branches, canvas = ready(model, head, method)
    if before:
        before()
    return pipeline.sample(branches, settings, canvas).canvas.codes.flatten().tolist()


def sampled(model, head, canvas, seed: int) -> torch.Tensor:
    """Codes by way of the nodes' own function."""
    (done,) = run.generate(model, head, PROMPT, canvas, [make_plan(model, head, canvas, seed)], lambda step, width, height: None)
    return done.canvas.codes


def parts(model, head) -> tuple:
    """The handles of all that a run uses."""
    return model.base, head.fit(model), model.image_tokenizer


def maskgit() -> dict:
    """Tokens of the tiny MaskGIT, whole, in part and off the device; and codes of an image of its own there and back."""
    model, head = weights.load_model(MASKGIT, "fp32"), weights.load_head(MASKGIT_HEAD)
    seen = {"whole": codes(model, head), "methods": {method: codes(model, head, method=method) for method in ("vanilla", "ml-cache")}}
    for share in (0.5, 0):
        seen[f"offloaded {share}"] = codes(model, head, lambda: [offload(handle, share) for handle in parts(model, head)])
    management.unload_all_models()
    seen["no memory"] = with_free_memory(100 * model.base.model_size(), lambda: codes(model, head), "NO_VRAM")
    management.unload_all_models()
    seen["round_trips"] = [through_the_tokenizer(model, side=6), through_the_tokenizer(model, lambda: offload(model.image_tokenizer, 0), side=6)]
    half = weights.load_model(MASKGIT, "bf16")
    seen["bf16"] = {"linear": str(half.checkpoint.base.blocks[0].attention.q_proj.weight.dtype), "codes": codes(half, head)}
    return seen


def through_the_tokenizer(model, before=None, side: int = 4) -> list[int]:
    """Codes of an image that was decoded from codes 0, 1, 2, ..., as many as the codebook has, over and over."""
    weights.load_image_tokenizer(model, side * model.downscale_factor, side * model.downscale_factor)
    if before:
        before()
    grid = (torch.arange(side * side) % model.checkpoint.base.config.codebook_size).view(1, side, side)
    image = pictures.canvas_image(model, run.Canvas(grid, torch.zeros(1, side, side, dtype=torch.bool)))
    return pictures.encode(model, image).flatten().tolist()


def answer(model, before=None) -> list[int]:
    """Tokens of an answer, by the rows of the output projection that only text needs."""
    settings = understanding.TextSettings(length=8, block=8, stop="never")
    with host_text.prepare_text(model, 1, 64, settings):
        if before:
            before()
        (reply,) = reading.answer_questions(model.checkpoint, [PROMPT.text], inputs.Inputs(), asdict(settings))
    return reply.answer.tokens.tolist()


def mapped(disable_mmap: bool) -> int:
    """How many parts of the base's file are mapped when the model has sampled and answered (Linux)."""
    comfy.cli_args.args.disable_mmap = disable_mmap
    model, head = weights.load_model("small", "fp32"), weights.load_head("small.safetensors")
    codes(model, head), answer(model)
    maps = Path("/proc/self/maps")
    return sum("small/model.safetensors" in line for line in maps.read_text().splitlines()) if maps.exists() else -1


def offload(handle, share: float):
    """What the host does on a card with room for a share of the weights."""
    handle.detach()
    handle.load(handle.load_device, lowvram_model_memory=max(1, int(handle.model_size() * share)))
    cast = [m for m in handle.model.modules() if getattr(m, "comfy_cast_weights", False)]
    assert cast, "nothing was offloaded"


def with_free_memory(amount: int, do, state: str = "NORMAL_VRAM"):
    """What ``do`` returns on a device that has so many bytes left, and whatever a run needs beside the weights.

    Args:
        state: of the host's memory management; --lowvram and --novram set LOW_VRAM and NO_VRAM.
    """
    asked = management.vram_state, management.is_device_cpu, management.get_free_memory, management.minimum_inference_memory
    management.vram_state = management.VRAMState[state]
    management.is_device_cpu = lambda device: False
    management.get_free_memory = lambda device=None, torch_free_too=False: (amount, 0) if torch_free_too else amount
    management.minimum_inference_memory = lambda: 0
    try:
        return do()
    finally:
        management.vram_state, management.is_device_cpu, management.get_free_memory, management.minimum_inference_memory = asked


with torch.inference_mode():
    large, large_head = weights.load_model("large", "fp32"), weights.load_head("large.safetensors")
    unlimited = codes(large, large_head)
    size = large.base.model_size()
    management.unload_all_models()
    limited = with_free_memory(int(0.6 * size), lambda: codes(large, large_head))
    limits = {"same": limited == unlimited, "loaded": large.base.loaded_size(), "size": size}
    management.unload_all_models()
    states = {}
    for state in ("LOW_VRAM", "NO_VRAM"):
        same = with_free_memory(100 * size, lambda: codes(large, large_head), state) == unlimited
        states[state] = {"same": same, "loaded": large.base.loaded_size()}
        management.unload_all_models()
    del large, large_head
    model, head = weights.load_model("small", "fp32"), weights.load_head("small.safetensors")
    whole = codes(model, head)
    methods = {method: codes(model, head, method=method) for method in ("vanilla", "ml-cache")}
    half = codes(model, head, lambda: [offload(handle, 0.5) for handle in parts(model, head)])
    none = codes(model, head, lambda: [offload(handle, 0) for handle in parts(model, head)])
    management.unload_all_models()
    reloaded = codes(model, head)
    round_trips = [through_the_tokenizer(model), through_the_tokenizer(model, lambda: offload(model.image_tokenizer, 0))]
    answers = [answer(model), answer(model, lambda: [offload(handle, 0) for handle in (model.base, *model.text)]), codes(model, head) == whole]
    management.unload_all_models()
    answers += [answer(model), with_free_memory(100 * model.base.model_size(), lambda: answer(model), "NO_VRAM")]
    management.unload_all_models()
    uneven = run.Canvas.empty(2, 4, 4).masked_with(torch.zeros(1, dtype=torch.bool))
    uneven.masked[1, :2] = False
    together = sampled(model, head, uneven, seed=7)
    apart = [sampled(model, head, run.Canvas(uneven.codes[i : i + 1], uneven.masked[i : i + 1]), seed=7 + i) for i in (0, 1)]
    kept = {}
    for name in ("auto", "bf16", "fp16", "float8_e4m3fn"):
        other = weights.load_model("small", name)
        block = other.checkpoint.base.blocks[0]
        kept[name] = {
            "shared": other is model,
            "linear": str(block.q_proj.weight.dtype),
            "norm": str(block.attn_norm.weight.dtype),
            "computed": str(other.dtype),
            "bytes": other.base.model_size(),
            "codes": codes(other, head),
        }
    eight_bit = {}
    for kind, dtype in checkpoints.QUANTISED.items():
        file = folders.models()["small"].parent / f"{kind}.safetensors"
        checkpoints.convert(folders.models()["small"], file, dtype=dtype)
        folder_paths.filename_list_cache.clear()
        other = weights.load_model(f"{kind}.safetensors", "fp32")
        plain = codes(other, head)
        offloaded = [codes(other, head, lambda: [offload(handle, share) for handle in (other.base, head.fit(other))]) for share in (0.5, 0)]
        eight_bit[kind] = {"answer": answer(other), "same": offloaded == [plain, plain], "bytes": other.base.model_size()}
        file.unlink()
    bytes_ = {"run": weights.run_bytes(model, *ready(model, head)[1:3]), "base": model.base.model_size()}
management.unload_all_models()
with torch.inference_mode():
    of_maskgit = maskgit()
management.unload_all_models()
handles = len(weights._models)
del model, head, other, block
alive = len(weights._models)
files_in_use = []
for disable_mmap in (False, True):
    with torch.inference_mode():
        files_in_use.append(mapped(disable_mmap))
    management.unload_all_models()
seen = {"whole": whole, "half": half, "none": none, "methods": methods, "reloaded": reloaded, "answers": answers, "round_trips": round_trips, "kept": kept, "bytes": bytes_}
seen |= {"maskgit": of_maskgit, "limits": limits, "states": states, "eight_bit": eight_bit, "uneven": torch.equal(together, torch.cat(apart)), "alive": [handles, alive], "mapped": files_in_use}
print(json.dumps(seen))
