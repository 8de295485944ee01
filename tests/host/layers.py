"""Run by the host's own Python, in the host's folder, with a base directory: what its layers, handles and formats are to our models.

With --dynamic as a second argument the host's dynamic memory is on. Prints one JSON object.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from inside import enter, own_numbers  # noqa: E402

BASE = Path(sys.argv[1])
extension = enter(BASE, "--cpu", dynamic="--dynamic" in sys.argv[2:])
import comfy.ldm.modules.attention as attention  # noqa: E402
import comfy.model_patcher  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

operations, run, weights, sockets = (extension(f"nodes.{room}") for room in ("host.operations", "run", "host.weights", "sockets"))
PROMPT = sockets.PromptText("a large red house on a snowy shore", "")
MODELS = BASE / "models/migm"
PREFIX = "model.transformer."


def codes(name: str) -> list[int]:
    """The tokens of a model, computed in float32."""
    folder_paths.filename_list_cache.clear()
    model, head = weights.load_model(name, "fp32"), weights.load_head("small.safetensors")
    canvas = run.canvas_for(model, PROMPT, head, None)
    plan = run.make_plan(model, head, canvas, PROMPT, method="shortcut", seed=4, **own_numbers(model))
    (done,) = run.generate(model, head, PROMPT, canvas, [plan], lambda *step: None)
    return done.canvas.codes.flatten().tolist()


def with_weights(name: str, edit) -> str:
    """A copy of the small checkpoint with other tensors."""
    folder = MODELS / name
    for file in (MODELS / "small").rglob("*"):
        if file.is_file() and file.name != "model.safetensors":
            (folder / file.relative_to(MODELS / "small")).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.relative_to(MODELS / "small")).write_bytes(file.read_bytes())
    tensors = load_file(MODELS / "small/model.safetensors")
    save_file({key: value.contiguous() for key, value in edit(tensors).items()}, folder / "model.safetensors")
    return name


def in_host_format(format: str, layout: str) -> dict:
    """The tokens of a file in one of the host's formats, and of the numbers that it stands for."""
    from comfy.quant_ops import QuantizedTensor

    description = torch.tensor(list(json.dumps({"format": format}).encode()), dtype=torch.uint8)

    def is_linear(key: str, value) -> bool:
        return key.startswith(PREFIX + "blocks.") and value.dim() == 2

    def quantised(tensors):
        made = {}
        for key, value in tensors.items():
            if not is_linear(key, value):
                made[key] = value
                continue
            kept = QuantizedTensor.from_float(value, layout, scale="recalculate")
            stored = kept.state_dict(key)
            made |= {name: tensor.view(torch.uint8) if tensor.dtype not in KNOWN else tensor for name, tensor in stored.items()}
            made[key.removesuffix("weight") + "comfy_quant"] = description.clone()
        return made

    def whole(tensors):
        return {
            key: QuantizedTensor.from_float(value, layout, scale="recalculate").dequantize() if is_linear(key, value) else value
            for key, value in tensors.items()
        }

    return {"kept": codes(with_weights(format, quantised)), "whole": codes(with_weights(format + "-whole", whole))}


KNOWN = (torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.int8, torch.float8_e4m3fn)


def attention_calls() -> dict:
    """Which function is asked for attention on which kind of device."""
    asked = []

    def recorder(q, k, v, heads, **options):
        asked.append([q.device.type, heads, sorted(options)])
        return q

    layer = operations.operations(torch.float32, torch.float32, torch.device("cpu"), torch.device("cpu"))
    usual, attention.optimized_attention = attention.optimized_attention, recorder
    try:
        for device in ("cpu", "meta"):
            q = torch.ones(1, 2, 3, 4, device=device)
            assert layer.optimized_attention(q, q, q).shape == q.shape
    finally:
        attention.optimized_attention = usual
    return asked


def heads(model, head) -> dict[str, list[str]]:
    """The dtypes of a head's handles: with a model in float32, with two such, with one in bfloat16 beside it, and when that has gone."""
    def of_handles():
        return sorted(str(next(handle.model.parameters()).dtype) for handle in head.get_models())

    head.fit(model)
    found = {"one": of_handles()}
    other = replace(model)
    shared = head.fit(other) is head.fit(model)
    found |= {"alike": of_handles() if shared else []}
    other = replace(model, dtype=torch.bfloat16)
    head.fit(other)
    found["different"] = of_handles()
    del other
    return found | {"gone": of_handles()}


with torch.inference_mode():
    plain = codes("small")
    bf16 = with_weights("half", lambda tensors: {key: value.to(torch.bfloat16) for key, value in tensors.items()})
    model = weights.load_model("small", "fp32")
    head = weights.load_head("small.safetensors")
    usual_class = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    handle = usual_class(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
    seen = {
        "attention": attention_calls(),
        "patchers": [type(each) is type(handle) for each in (*model.get_models(), *head.get_models(), head.fit(model))],
        "heads": heads(model, head),
        "bf16": codes(bf16),
        "formats": {},
    }
    folder_paths.filename_list_cache.clear()
    half = weights.load_model(bf16, "fp32")
    seen["half"] = sorted({str(p.dtype) for p in half.checkpoint.base.parameters()})
    try:
        from comfy.quant_ops import QUANT_ALGOS, get_layout_class  # noqa: F401
    except ImportError:
        QUANT_ALGOS = {}
    for format in ("float8_e4m3fn", "nvfp4", "mxfp8", "int8_tensorwise"):
        if format in QUANT_ALGOS:
            seen["formats"][format] = in_host_format(format, QUANT_ALGOS[format]["comfy_tensor_layout"])
print(json.dumps(seen))
