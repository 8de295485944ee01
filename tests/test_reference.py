"""Parity with the published implementation, on recorded inputs and outputs.

Runs on every directory in the environment variable MIGM_REFERENCE_DIR (separated like a PATH), and without it on the one
kept as test data. All sizes, grids, budgets and settings come from the directory.
"""

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from migm_core.canvas import Canvas
from migm_core.checkpoints import TensorSource, load_head
from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.files import BASE_PREFIX, build_base, build_image_tokenizer
from migm_core.families.lumina_dimoo.rule import LuminaRule, keep_masked
from migm_core.families.lumina_dimoo.tasks import image_guidance, text_guidance
from migm_core.sampling.loop import sample
from migm_core.sampling.methods import MLCache, Shortcut, Vanilla
from migm_core.sampling.noise import SeededNoise
from migm_core.sampling.schedules import full_steps

DIRECTORIES = [
    Path(d) for d in os.environ.get("MIGM_REFERENCE_DIR", str(Path(__file__).parent / "data" / "reference")).split(os.pathsep) if d
]
TOLERANCE = 1e-4  # of the tensor's largest value


@dataclass(frozen=True)
class Reference:
    folder: Path
    meta: dict
    cases: dict
    base: Lumina

    def head(self, name: str):
        return load_head(self.folder / f"head_{name}.safetensors", self.base.config, dtype=torch.float32)


@cache
def reference(folder: Path) -> Reference:
    meta = json.loads((folder / "meta.json").read_text())
    tokens = {**meta["ids"], "image_codes": meta["text_vocab_size"], "codebook_size": meta["codebook_size"]}
    source = TensorSource.open(folder / "base.safetensors").prefixed(BASE_PREFIX)
    rows = (0, source.shapes["wte.weight"][0])
    base = build_base({**meta["config"], "tokens": tokens}, str(folder), source, output_rows=rows, dtype=torch.float32)
    return Reference(folder, meta, load_file(folder / "cases.safetensors"), base)


def per_directory(key, select):
    """Parameters (directory, item) for every item that a directory's meta.json lists."""
    pairs = [(d, item) for d in DIRECTORIES for item in select(json.loads((d / "meta.json").read_text()))]
    return pytest.mark.parametrize(("folder", key), pairs, ids=[f"{d.name}-{_name(item)}" for d, item in pairs])


def _name(item):
    return item if isinstance(item, str) else item.get("name") or "-".join(str(v) for v in item.values() if not isinstance(v, list))


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("folder", DIRECTORIES, ids=lambda d: d.name)
@torch.inference_mode()
def test_base_features_and_logits(folder):
    r = reference(folder)
    tokens = r.cases["base.input_ids"]
    features = r.base(tokens, r.base.rotary(tokens.shape[1], tokens.device))
    assert_close(features, r.cases["base.features"])
    assert_close(r.base.logits(features), r.cases["base.logits"])


@per_directory("variant", lambda meta: list(meta["heads"]))
@torch.inference_mode()
def test_head_step(folder, variant):
    r = reference(folder)
    case = {k.removeprefix(f"head.{variant}."): v for k, v in r.cases.items() if k.startswith(f"head.{variant}.")}
    head = r.head(variant)
    said = r.meta["heads"][variant]
    assert head.config.n_blocks == said["n_block"]
    assert head.config.bottleneck_ratio == said["bottleneck_ratio"]
    assert head.config.time_embedding == said["embed_time"]
    assert head.config.cross_attention == said["cross_attention"]
    features = case["features"]
    positions = case["new_token_mask"].nonzero()[:, 1].view(features.shape[0], -1)
    rotary = head.tables(features.shape[1], features.device)
    predicted = head(features, case["new_token_embeddings"], positions, case["mask_ratio"], rotary)
    assert_close(predicted, case["next_features"])


@pytest.mark.parametrize("folder", DIRECTORIES, ids=lambda d: d.name)
def test_published_pth_equals_the_default_head(folder):
    r = reference(folder)
    published, ours = load_head(folder / "head_default.pth", r.base.config, dtype=torch.float32), r.head("default")
    for (name, a), (_, b) in zip(published.state_dict().items(), ours.state_dict().items()):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("folder", DIRECTORIES, ids=lambda d: d.name)
@torch.inference_mode()
def test_image_tokenizer(folder):
    source = TensorSource.open(folder / "vqvae" / "diffusion_pytorch_model.safetensors")
    config = folder / "vqvae" / "config.json"
    model = build_image_tokenizer(json.loads(config.read_text()), str(config), source)
    cases = load_file(folder / "vq_cases.safetensors")
    assert_close(model.latents(cases["image"]), cases["latents"])
    assert torch.equal(model.encode(cases["image"]), cases["indices"].view(cases["codes"].shape))
    assert_close(model.decode(cases["codes"]), cases["decoded"].clamp(0, 1))


@per_directory("schedule", lambda meta: meta["budget_schedules"])
def test_budget_schedule(folder, schedule):
    assert full_steps(schedule["steps"], schedule["budget"]) == schedule["full_steps"]


@per_directory("schedule", lambda meta: meta["mask_schedules"])
def test_mask_schedule(folder, schedule):
    assert keep_masked(schedule["tokens"], schedule["steps"]) == schedule["keep_masked"]


@per_directory("run", lambda meta: meta["runs"])
def test_run_gives_the_recorded_tokens(folder, run):
    r = reference(folder)
    layout = r.base.config.tokens
    prompt_ids, canvas = split_sequence(r, {"paint": "paint.input_ids", "i2i": "i2i.input_ids"}.get(run.get("input"), "seq.input_ids"))
    if run.get("input") == "i2i":
        without_text, without_image = r.cases["i2i.uncond_text_ids"], r.cases["i2i.uncond_image_ids"]
        branches = image_guidance(prompt_ids, without_text, without_image, run["cfg_scale"], run["cfg_img"])
    else:
        branches = text_guidance(prompt_ids, r.cases["seq.uncond_ids"], run["cfg_scale"])
    method = {
        "vanilla": lambda: Vanilla(),
        "shortcut": lambda: Shortcut(r.head(run.get("head", "default")), run["budget"], run.get("prompt_visible", True)),
        "ml_cache": lambda: MLCache(run["warmup_ratio"], run["refresh_interval"], run["cache_ratio"]),
    }[run["method"]]()
    generators = [torch.Generator().manual_seed(run["seed"])]
    finished = sample(
        r.base, branches, canvas, method, steps=run["steps"], rule=LuminaRule(run["temperature"]), noise=SeededNoise(generators
    ))
    tokens = (finished.codes + layout.image_codes).flatten()
    assert tokens.tolist() == r.cases[f"run.{run['name']}.tokens"].tolist()


def split_sequence(r: Reference, name: str) -> tuple[torch.Tensor, Canvas]:
    """A recorded sequence (1, T) as the prompt before boa and the canvas after it."""
    layout = r.base.config.tokens
    ids = r.cases[name][0]
    answer = (ids == layout.boa).nonzero()[-1, 0]
    height, width = r.meta["grid"]
    grid = ids[answer + 2 : answer + 2 + height * (width + 1)].view(1, height, width + 1)[..., :width]
    unknown = grid == layout.mask
    return ids[:answer], Canvas(torch.where(unknown, 0, grid - layout.image_codes), unknown)
