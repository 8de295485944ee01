"""MaskGIT's files: the published ones and ours, in folders as users have them; what is skipped, and what is refused."""

import json
import os
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from migm_core.canvas import Canvas
from migm_core.checkpoints import CheckpointError, TensorSource, convert, describe, load_checkpoint, load_head, save_head
from migm_core.checkpoints.torch_file import TorchFile
from migm_core.families import detect
from migm_core.families.maskgit.head import MaskGitHead, MaskGitHeadConfig
from migm_core.pipeline import Pipeline

DATA = Path(__file__).parent / "data" / "maskgit"
BASE, HEAD = DATA / "MaskGIT_ImageNet_tiny.pth", DATA / "maskgit-shortcut.pth"
N_HEADS = json.loads((DATA / "meta.json").read_text())["config"]["n_heads"]


def published(folder: Path, base: str = ".", vqgan: str = "VQGAN") -> Path:
    """A folder as the published files lie in it, and the config.json that tells the number of heads."""
    (folder / base).mkdir(parents=True, exist_ok=True)
    shutil.copy(BASE, folder / base)
    shutil.copytree(DATA / "vqgan", folder / vqgan)
    (folder / base / "config.json").write_text(json.dumps({"model_type": "maskgit", "n_heads": N_HEADS}))
    return folder


@pytest.fixture
def folder(tmp_path):
    return published(tmp_path / "model")


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Folders


@pytest.mark.parametrize(
    ("base", "vqgan", "given"),
    [
        (".", "VQGAN", "."),
        (".", "vqgan", "."),
        (".", "VQGAN", BASE.name),
        ("MaskGIT", "VQGAN", "."),
        ("MaskGIT", "VQGAN", "MaskGIT"),
        ("pretrained_maskgit/MaskGIT", "pretrained_maskgit/VQGAN", "."),
        ("pretrained_maskgit/MaskGIT", "pretrained_maskgit/VQGAN", "pretrained_maskgit"),
    ],
)
def test_published_files_are_found_where_users_have_them(tmp_path, base, vqgan, given):
    path = published(tmp_path, base, vqgan) / given
    family, _ = detect(path)
    assert family.name == "maskgit"
    checkpoint = load_checkpoint(path)
    expected = load_file(DATA / "base.safetensors")
    assert torch.equal(checkpoint.base.tok_emb.weight, expected["tok_emb.weight"])
    assert (checkpoint.base.config.n_heads, checkpoint.base.config.n_classes, checkpoint.image_tokenizer.config.n_embed) == (N_HEADS, 10, 24)
    assert (checkpoint.settings["width"], checkpoint.settings["height"], checkpoint.settings["steps"]) == (24, 24, 15)


def test_without_a_word_a_model_has_16_heads(folder):
    (folder / "config.json").unlink()
    assert load_checkpoint(folder).base.config.n_heads == 16
    assert "16 heads (as published; a config.json beside it may say otherwise)" in describe(folder)
    with pytest.raises(CheckpointError, match="width 24.* does not divide into n_heads 16.*config.json"):
        load_head(HEAD, load_checkpoint(folder).base.config)


def test_a_config_of_another_model_beside_it_says_nothing(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "llada", "n_heads": 32}))
    assert load_checkpoint(folder).base.config.n_heads == 16


@pytest.mark.parametrize(("said", "message"), [({"n_heads": 7}, "not a multiple of n_heads 7"), ({"n_heads": "4"}, "n_heads is '4'"), ({"n_classes": 9}, "n_classes is 9, but .* have 10")])
def test_a_config_that_does_not_fit_is_refused(folder, said, message):
    (folder / "config.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_of_several_base_models_one_must_be_named(folder):
    shutil.copy(BASE, folder / "MaskGIT_ImageNet_other.pth")
    with pytest.raises(CheckpointError, match="several MaskGIT base models, MaskGIT_ImageNet_other.pth, MaskGIT_ImageNet_tiny.pth. Give the path"):
        load_checkpoint(folder)
    assert load_checkpoint(folder / BASE.name).path == folder / BASE.name


def test_a_checkpoint_may_name_its_classes(folder):
    names = [f"thing {number}" for number in range(10)]
    (folder / "config.json").write_text(json.dumps({"n_heads": N_HEADS, "class_names": names}))
    checkpoint = load_checkpoint(folder)
    assert checkpoint.prompts.number("Thing 7") == 7
    convert(folder, folder / "all.safetensors")
    assert load_checkpoint(folder / "all.safetensors").prompts.names == tuple(names)
    (folder / "config.json").write_text(json.dumps({"n_heads": N_HEADS, "class_names": names[1:]}))
    with pytest.raises(CheckpointError, match="9 class names for 10 classes"):
        load_checkpoint(folder)


# What torch.save wrote


def test_the_optimizers_state_is_not_read():
    file = TorchFile.open(BASE)
    for name in file.shapes:
        file.get(name)
    weights = len(load_file(DATA / "base.safetensors"))
    assert len(file.mapped) == weights
    with zipfile.ZipFile(BASE) as archive:
        assert sum("/data/" in name for name in archive.namelist()) > 2 * weights


def test_changed_bytes_of_the_optimizer_change_nothing(tmp_path):
    """So they are neither read nor checked."""
    state = torch.load(BASE, weights_only=True)
    numbers = next(iter(state["optimizer_state_dict"]["state"].values()))["exp_avg"].numpy().tobytes()
    content = BASE.read_bytes()
    assert content.count(numbers) == 1
    path = tmp_path / BASE.name
    path.write_bytes(content.replace(numbers, b"\xff" * len(numbers)))
    source = TensorSource.open(path)
    assert all(torch.equal(source.get(name), tensor) for name, tensor in state["model_state_dict"].items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("table", ["model_state_dict", "state_dict"])
def test_training_checkpoints_of_either_form(tmp_path, table, zipped):
    whole = torch.arange(24.0).view(4, 6)
    state = {"a": whole[1:, ::2], "b": torch.nn.Parameter(whole.half()), "c": torch.tensor([], dtype=torch.int64), "d": torch.tensor(3)}
    contents = {"epoch": 1, "optimizer_states": [{"state": {0: {"exp_avg": whole}}}], table: state, "none": None, "rates": (0.5, -1, 2**40)}
    torch.save(contents, tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    source = TensorSource.open(tmp_path / "last.ckpt")
    for name, tensor in state.items():
        assert torch.equal(source.get(name), tensor) and source.dtypes[name] == tensor.dtype
    assert torch.equal(source.get("b", (1, 3)), whole[1:3].half())


class Payload:
    """What runs when a pickle of it is loaded."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_nothing_that_a_checkpoint_names_is_imported_or_run(tmp_path, zipped, monkeypatch):
    (tmp_path / "foreign_callback.py").write_text("class Callback:\n    def __init__(self):\n        self.score = 1\n    def __setstate__(self, state):\n        raise RuntimeError\n")
    monkeypatch.syspath_prepend(tmp_path)
    import foreign_callback

    marker = tmp_path / "ran"
    callback = foreign_callback.Callback()
    contents = {"callbacks": {foreign_callback.Callback: callback, "payload": Payload(marker)}, "state_dict": {"a": torch.ones(3)}}
    torch.save(contents, tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    del sys.modules["foreign_callback"]
    assert torch.equal(TensorSource.open(tmp_path / "last.ckpt").get("a"), torch.ones(3))
    assert "foreign_callback" not in sys.modules
    assert not marker.exists()


def test_the_recorded_checkpoint_with_a_callbacks_class_is_read(tmp_path):
    source = TensorSource.open(DATA / "vqgan" / "last_with_callback.ckpt")
    whole = TensorSource.open(DATA / "vqgan" / "last.ckpt")
    assert "decoder.norm_out.weight" in source
    assert all(torch.equal(source.get(name), whole.get(name)) for name in source.shapes)
    assert "pytorch_lightning" not in sys.modules
    assert "image tokenizer (VQGAN)" in describe(DATA / "vqgan" / "last_with_callback.ckpt")


def test_code_in_the_place_of_a_tensor_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(3), "b": Payload(tmp_path / "ran")}}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="an entry 'b' that is no named tensor under 'state_dict'"):
        TensorSource.open(tmp_path / "last.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("opcode", [b"\x82\x01", b"\x83\x01\x00", b"P0\n", b"\x97"], ids=["EXT1", "EXT2", "PERSID", "NEXT_BUFFER"])
def test_other_instructions_are_refused(tmp_path, opcode):
    path = tmp_path / "last.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("last/data.pkl", b"\x80\x02}X\x0a\x00\x00\x00state_dict" + opcode + b"s.")
    with pytest.raises(CheckpointError, match="damaged"):
        TensorSource.open(path)


def hand_made(path: Path, shape: tuple, stride: tuple, offset: int = 0, count: int = 4, present: int = 4) -> Path:
    """A checkpoint of one tensor that says what it likes of its numbers, of which so many are present."""

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (pickle.PersistentLoad, offset, shape, stride, False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", count) if value is pickle.PersistentLoad else None

    pickle.PersistentLoad = object()  # stands for the storage
    try:
        with zipfile.ZipFile(path, "w") as archive:
            with archive.open("last/data.pkl", "w") as file:
                Pickler(file, 2).dump({"state_dict": {"a": Tensor()}})
            archive.writestr("last/data/0", bytes(4 * present))
    finally:
        del pickle.PersistentLoad
    return path


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shape": (5,), "stride": (1,)}, "reaches past its numbers"),
        ({"shape": (2, 2), "stride": (3, 1)}, "reaches past its numbers"),
        ({"shape": (4,), "stride": (1,), "offset": 1}, "reaches past its numbers"),
        ({"shape": (4,), "stride": (1,), "present": 3}, "lacks the numbers of a"),
        ({"shape": (4,), "stride": (-1,), "offset": 3}, "damaged"),
        ({"shape": (4,), "stride": (1, 1)}, "damaged"),
        ({"shape": (4,), "stride": (1,), "offset": -1}, "damaged"),
    ],
)
def test_a_tensor_past_its_numbers_is_refused(tmp_path, wrong, message):
    with pytest.raises(CheckpointError, match=message):
        TensorSource.open(hand_made(tmp_path / "last.ckpt", **wrong))


def test_a_hand_made_checkpoint_is_read(tmp_path):
    assert torch.equal(TensorSource.open(hand_made(tmp_path / "last.ckpt", (2, 2), (2, 1))).get("a"), torch.zeros(2, 2))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("name", [BASE.name, "vqgan/last.ckpt"])
def test_a_file_that_is_cut_short_is_refused(tmp_path, name, share):
    content = (DATA / name).read_bytes()
    path = tmp_path / Path(name).name
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="damaged"):
        TensorSource.open(path)


# Converting


def test_a_folder_becomes_one_file(folder, tmp_path):
    target = tmp_path / "maskgit.safetensors"
    convert(folder, target)
    before, after = load_checkpoint(folder), load_checkpoint(target)
    assert same(before.base, after.base) and same(before.image_tokenizer, after.image_tokenizer)
    assert (before.base.config, before.image_tokenizer.config, before.settings) == (after.base.config, after.image_tokenizer.config, after.settings)
    with safe_open(target, "pt") as file:
        assert not [name for name in file.keys() if "loss" in name]
        assert "transformer.layers.0.0.fn.mha.in_proj_weight" in file.keys()  # as published
    again = tmp_path / "again.safetensors"
    convert(target, again)
    assert again.read_bytes() == target.read_bytes()


def test_a_file_in_half_precision_keeps_its_image_tokenizer(folder, tmp_path):
    target = tmp_path / "half.safetensors"
    convert(folder, target, dtype=torch.bfloat16)
    checkpoint = load_checkpoint(target, dtype=torch.bfloat16)
    assert torch.equal(checkpoint.base.tok_emb.weight, load_checkpoint(folder).base.tok_emb.weight.bfloat16())
    assert same(checkpoint.image_tokenizer, load_checkpoint(folder).image_tokenizer)
    assert TensorSource.open(target).dtypes["tok_emb.weight"] == torch.bfloat16


def test_the_parts_become_files_by_themselves(folder, tmp_path):
    whole = load_checkpoint(folder)
    parts = tmp_path / "parts"
    convert(folder / "VQGAN", parts / "VQGAN" / "vqgan.safetensors")
    shutil.move(folder / "VQGAN", folder / "elsewhere")
    convert(folder / BASE.name, parts / "base.safetensors")
    assert same(load_checkpoint(parts).base, whole.base) and same(load_checkpoint(parts).image_tokenizer, whole.image_tokenizer)
    convert(folder / "elsewhere" / "last.ckpt", tmp_path / "vqgan.safetensors")
    assert (tmp_path / "vqgan.safetensors").read_bytes() == (parts / "VQGAN" / "vqgan.safetensors").read_bytes()


def test_a_published_head_becomes_safetensors(folder, tmp_path):
    base = load_checkpoint(folder).base.config
    convert(HEAD, tmp_path / "head.safetensors")
    head = load_head(tmp_path / "head.safetensors", base)
    assert same(head, load_head(HEAD, base)) and same(head, load_head(DATA / "head_default.safetensors", base))
    save_head(tmp_path / "saved.safetensors", head)
    assert (tmp_path / "saved.safetensors").read_bytes() == (tmp_path / "head.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_8_bits_are_refused(folder, tmp_path, dtype):
    with pytest.raises(ValueError, match="too small for 8 bits"):
        convert(folder, tmp_path / "small.safetensors", dtype=dtype)
    assert not (tmp_path / "small.safetensors").exists()


# Inspecting


def test_each_kind_of_file_is_described(folder, tmp_path):
    said = describe(folder)
    assert f"{folder / BASE.name}: MaskGIT base model" in said
    assert "3 layers, width 48, 4 heads, MLP 96" in said
    assert "24x24 pixels, 6x6 tokens" in said
    assert "24 image codes, the mask, 10 classes, no class" in said
    assert "that only training needs" in said
    assert f"{folder / 'VQGAN' / 'last.ckpt'}: image tokenizer (VQGAN)" in said
    assert said.endswith("complete      all that loading needs is there and fits together")
    assert describe(folder / BASE.name) == said
    assert "4 pixels a token" in describe(folder / "VQGAN") and "complete      its config" in describe(folder / "VQGAN" / "last.ckpt")
    assert "MaskGIT shortcut head\n  variant       1 block, bottleneck ratio 2, time embedding\n  fits          a MaskGIT base model of width 48" in describe(HEAD)
    assert "2 blocks, bottleneck ratio 2" in describe(DATA / "head_two_blocks.safetensors")
    assert "1 block, bottleneck ratio 1, no time embedding" not in describe(DATA / "head_wide.safetensors")
    convert(folder, tmp_path / "all.safetensors")
    assert "MaskGIT base model with image tokenizer" in describe(tmp_path / "all.safetensors")


def test_a_description_says_what_is_missing(folder):
    (folder / "VQGAN" / "model.yaml").unlink()
    assert "not complete" in describe(folder / "VQGAN") and "codebook      24 codes" in describe(folder / "VQGAN")
    last = describe(folder).splitlines()[-1]
    assert last.startswith("  not complete  ") and "model.yaml does not exist" in last
    shutil.rmtree(folder / "VQGAN")
    last = describe(folder).splitlines()[-1]
    assert last.startswith("  not complete  ") and "without its image tokenizer. Expected VQGAN/last.ckpt" in last


# From files to images


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return Pipeline.load(published(tmp_path_factory.mktemp("maskgit")), HEAD, dtype="fp32", device="cpu")


def test_several_classes_at_once_are_their_single_runs(pipeline):
    one_by_one = [pipeline.generate(number, seed=seed).canvas.codes for number, seed in ((3, 5), (0, 6), (7, 7))]
    for classes in ("3, 0, 7", [3, "0", 7]):
        result = pipeline.generate(classes, seed=5)
        assert len(result.images) == 3 and result.images[0].size == (24, 24)
        assert torch.equal(result.canvas.codes, torch.cat(one_by_one))
    assert torch.equal(pipeline.generate(3, seed=5, batch=2).canvas.codes[:1], one_by_one[0])


def test_images_with_different_masks_are_sampled_one_by_one(pipeline):
    given = pipeline.generate([1, 2], seed=0).canvas
    masked = torch.zeros(2, 6, 6, dtype=torch.bool)
    masked[0, :3], masked[1, 1:] = True, True
    result = pipeline.generate([1, 2], seed=0, canvas=Canvas(given.codes, masked))
    assert torch.equal(result.canvas.codes[~masked], given.codes[~masked])
    for image in range(2):
        alone = pipeline.generate(image + 1, seed=image, canvas=Canvas(given.codes[image : image + 1], masked[image : image + 1]))
        assert torch.equal(alone.canvas.codes[0], result.canvas.codes[image])


def test_codes_of_another_codebook_are_refused(pipeline):
    canvas = Canvas(torch.full((1, 6, 6), 24), torch.zeros(1, 6, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="holds the code 24, but this model's codebook has 24 codes"):
        pipeline.generate(1, canvas=canvas)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prompt": 10}, "The class 10 does not exist: this model has the classes 0 to 9"),
        ({"prompt": "goldfish"}, "this model's classes have no names"),
        ({"prompt": 1.5}, "The class 1.5 is float"),
        ({"prompt": ""}, "No class is given"),
        ({"prompt": 1, "negative": "rain"}, "leave the negative prompt out"),
        ({"prompt": 1, "width": 48, "height": 48}, "12x12 tokens, but this MaskGIT model samples 6x6"),
        ({"prompt": 1, "steps": 1}, "steps is 1"),
        ({"prompt": 1, "steps": 5, "budget": 6}, "budget is 6, but must be from 2 to the number of steps, 5"),
        ({"prompt": 1, "temperature": 1.0}, "Did you mean 'choice_temperature'"),
        ({"prompt": 1, "schedule": "sine"}, "schedule is 'sine'"),
    ],
)
def test_senseless_requests_are_refused(pipeline, asked, message):
    with pytest.raises(ValueError, match=message):
        pipeline.generate(**asked)


# What does not fit


def test_a_head_of_the_other_family_is_refused_in_words(folder, small):
    lumina, maskgit = load_checkpoint(small.folder).base.config, load_checkpoint(folder).base.config
    with pytest.raises(CheckpointError, match="is a shortcut head for MaskGIT, but the base is of Lumina-DiMOO"):
        load_head(HEAD, lumina)
    with pytest.raises(CheckpointError, match="is a shortcut head for Lumina-DiMOO, but the base is of MaskGIT"):
        load_head(small.head, maskgit)


def test_a_head_for_another_width_is_refused(folder, tmp_path):
    save_head(tmp_path / "head.safetensors", MaskGitHead(MaskGitHeadConfig(d_model=96, n_heads=4)))
    with pytest.raises(CheckpointError, match="trained for a base model of width 96, but this base has width 48"):
        load_head(tmp_path / "head.safetensors", load_checkpoint(folder).base.config)


def test_a_missing_or_extra_tensor_is_named(tmp_path):
    published(tmp_path)
    (tmp_path / BASE.name).unlink()
    weights = load_file(DATA / "base.safetensors")
    save_file({name: tensor for name, tensor in weights.items() if name != "first_layer.6.bias"}, tmp_path / "base.safetensors")
    with pytest.raises(CheckpointError, match="lacks first_layer.6.bias of the MaskGIT base model"):
        load_checkpoint(tmp_path)
    save_file({**weights, "last_layer.9.bias": torch.zeros(1)}, tmp_path / "base.safetensors")
    with pytest.raises(CheckpointError, match="holds last_layer.9.bias, which the MaskGIT base model does not have"):
        load_checkpoint(tmp_path)


def change_yaml(folder: Path, change) -> None:
    path = folder / "VQGAN" / "model.yaml"
    values = yaml.safe_load(path.read_text())
    change(values["model"])
    path.write_text(yaml.safe_dump(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model["params"].update(n_embed=32), "n_embed is 32, but the weights of .* have 24"),
        (lambda model: model["params"]["ddconfig"].update(ch_mult=[1, 1]), "the length of ch_mult is 2"),
        (lambda model: model["params"]["ddconfig"].update(z_channels=32), "z_channels is 32"),
        (lambda model: model["params"]["ddconfig"].update(attn_resolutions=[]), "attn"),
        (lambda model: model["params"].pop("ddconfig"), "a table ddconfig"),
        (lambda model: model.update(target="taming.models.vqgan.GumbelVQ"), "only a VQModel is supported"),
        (lambda model: model.pop("params"), "a table params"),
    ],
)
def test_a_model_yaml_that_does_not_fit_is_refused(folder, change, message):
    change_yaml(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["model: [", "- 1", "", "model: !!python/object/apply:os.system ['touch ran']", "\x00"])
def test_a_bad_model_yaml_is_refused(folder, text):
    (folder / "VQGAN" / "model.yaml").write_text(text)
    with pytest.raises(CheckpointError, match="model.yaml"):
        load_checkpoint(folder)
    assert not Path("ran").exists()


def test_a_vqgan_with_another_codebook_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"n_heads": N_HEADS, "codebook_size": 16}))
    with pytest.raises(CheckpointError, match="has 24 image codes, but the base model .* 16. They are not of one checkpoint"):
        load_checkpoint(folder)


def test_a_base_model_without_its_vqgan_is_refused(folder):
    shutil.rmtree(folder / "VQGAN")
    with pytest.raises(CheckpointError, match="without its image tokenizer. Expected VQGAN/last.ckpt and VQGAN/model.yaml"):
        load_checkpoint(folder)


def test_a_vqgan_alone_is_no_checkpoint(folder):
    with pytest.raises(CheckpointError, match="is an image tokenizer \\(VQGAN\\), not a model"):
        load_checkpoint(folder / "VQGAN")
    with pytest.raises(CheckpointError, match="is an image tokenizer \\(VQGAN\\), not a model"):
        load_checkpoint(folder / "VQGAN" / "last.ckpt")
