"""MaskGIT beyond the recorded numbers: the published sizes, classes, what is refused, decoding in tiles."""

import pytest
import torch
from live_memory import LiveMemory
from small_model import ShapesOfNoise
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from migm_core.canvas import Canvas
from migm_core.families import family_named
from migm_core.families.maskgit.backbone import MaskGit
from migm_core.families.maskgit.classes import ClassNames, imagenet_names
from migm_core.families.maskgit.config import MaskGitConfig
from migm_core.families.maskgit.head import MaskGitHead, MaskGitHeadConfig
from migm_core.families.maskgit.rule import MaskGitRule
from migm_core.families.maskgit.tasks import class_guidance
from migm_core.modules import uninitialised
from migm_core.modules.transformer import KeyValueCache
from migm_core.sampling import loop
from migm_core.sampling.backbone import Branch
from migm_core.sampling.loop import sample
from migm_core.sampling.memory import run_bytes
from migm_core.sampling.methods import METHODS, MLCache, Shortcut, Vanilla
from migm_core.sampling.noise import SeededNoise
from migm_core.tokenizers.vqgan import Vqgan, VqganConfig

SMALL = MaskGitConfig(grid=4, codebook_size=8, n_classes=3, d_model=16, n_layers=2, n_heads=2, mlp_hidden_size=32)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = MaskGit(SMALL).eval().requires_grad_(False)
    for parameter in (model.pos_emb, model.bias, model.tok_emb.weight):
        torch.nn.init.normal_(parameter, std=0.5)  # so that no code is certain
    return model


def millions(model) -> float:
    return round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 3)


@pytest.mark.parametrize(("grid", "size"), [(16, 174.161), (32, 176.307)])
def test_published_base_models_have_the_published_size(grid, size):
    model = MaskGit(MaskGitConfig(grid=grid), device="meta", operations=uninitialised)
    assert millions(model) == size


@pytest.mark.parametrize("ratio", [1e-6, 0.5, 0, float("nan")])
def test_a_new_head_is_not_wider_than_its_base(ratio):
    with pytest.raises(ValueError, match="ratio .* wider than its base, whose width is 768. Choose 1 or more"):
        family_named("maskgit").new_head(MaskGitConfig(), ratio)


@pytest.mark.parametrize(("variant", "size"), [({}, 5.082), ({"n_blocks": 2}, 8.631), ({"time_embedding": False}, 4.585), ({"bottleneck_ratio": 1}, 16.405)])
def test_heads_have_the_published_size(variant, size):
    config = MaskGitHeadConfig(d_model=768, n_heads=16, **variant)
    assert millions(MaskGitHead(config, device="meta", operations=uninitialised)) == size


def test_published_image_tokenizer_has_the_published_size():
    model = Vqgan(VqganConfig(), device="meta", operations=uninitialised)
    assert (millions(model), len(model.state_dict())) == (72.142, 343)
    assert model.config.downscale_factor == 16


# Backbone


def branch(number: int, weight: float = 1.0) -> Branch:
    return Branch(torch.tensor([SMALL.class_token(number)]), weight, prompt_visible=False)


def test_a_sequence_is_the_grid_and_the_class():
    canvas = Canvas(torch.arange(16).remainder(8).view(1, 4, 4).repeat(2, 1, 1), torch.zeros(2, 4, 4, dtype=torch.bool)).masked_with(torch.eye(4, dtype=torch.bool))
    classes = torch.tensor([[SMALL.class_token(0)], [SMALL.dropped_class]])
    model = MaskGit(SMALL, device="meta", operations=uninitialised)
    sequence = model.sequence(Branch(classes, 1.0, prompt_visible=False), canvas)
    assert sequence.tokens.tolist()[0] == [8, 1, 2, 3, 4, 8, 6, 7, 0, 1, 8, 3, 4, 5, 6, 8, 9]
    assert sequence.tokens[:, -1].tolist() == [9, 12]
    sequence.unmask(torch.tensor([[0, 5], [10, 15]]), torch.tensor([[7, 6], [5, 4]]))
    assert sequence.tokens[:, [0, 5, 10, 15]].tolist() == [[7, 6, 8, 8], [8, 8, 5, 4]]
    assert (sequence.length, len(sequence.context)) == (17, 0)


@pytest.mark.parametrize("shape", [(1, 4, 8), (1, 8, 8)])
def test_a_canvas_of_another_size_is_refused(model, shape):
    with pytest.raises(ValueError, match=f"{shape[2]}x{shape[1]} tokens.*samples 4x4"):
        model.sequence(branch(0), Canvas.empty(*shape))


@torch.inference_mode()
def test_features_at_some_positions_from_the_cache_equal_a_whole_pass(model):
    sequence, cache = model.sequence(branch(1), Canvas.empty(2, 4, 4)), KeyValueCache()
    whole = model.features(sequence, cache)
    positions = torch.tensor([[3, 9, 16], [0, 1, 2]])
    some = model.features_at(sequence, positions, cache)
    expected = whole.gather(1, positions[..., None].expand(-1, -1, SMALL.width))
    assert torch.allclose(some, expected, atol=1e-5)


@torch.inference_mode()
def test_a_head_without_new_tokens_still_runs():
    torch.manual_seed(0)
    head = MaskGitHead(MaskGitHeadConfig(d_model=16, n_heads=2)).eval()
    features, ratio = torch.randn(2, 17, 16), torch.tensor([0.5, 0.5])
    nothing = torch.zeros(2, 0, 16), torch.zeros(2, 0, dtype=torch.int64)
    moved = head(features, *nothing, ratio)
    assert moved.shape == features.shape and not torch.equal(moved, features)


def test_multiply_adds_are_those_of_the_matrix_products():
    config, model = SMALL, MaskGit(SMALL).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        model.features_of(torch.zeros(1, config.length, dtype=torch.int64))
    assert counter.get_total_flops() == 2 * config.pass_macs(config.length, config.length)


# Sampling


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(1)
    return MaskGitHead(MaskGitHeadConfig(d_model=16, n_heads=2)).eval().requires_grad_(False)


def sampled(model, method, classes, seeds, *, canvas=None, steps=6, guidance_scale=3.0, rule=MaskGitRule(), reports=None):
    """Finished codes (B, 4, 4)."""
    canvas = canvas or Canvas.empty(len(seeds), 4, 4)
    branches = class_guidance(SMALL, classes, guidance_scale)
    noise = SeededNoise.of_seeds(seeds, torch.device("cpu"))
    return sample(model, branches, canvas, method, rule, steps=steps, noise=noise, callback=None if reports is None else reports.append).codes


@pytest.mark.parametrize("rule", [MaskGitRule(), MaskGitRule("cosine", False, 2.0, 1.0), *(MaskGitRule(randomize=kind) for kind in ("random", "warm_up", "no"))], ids=str)
@pytest.mark.parametrize("name", sorted(METHODS))
def test_an_image_of_a_batch_is_its_single_run(model, head, name, rule):
    method = {"vanilla": Vanilla(), "shortcut": Shortcut(head, 3, divide_first=True), "ml-cache": MLCache(ratio=0.5)}[name]
    batch = sampled(model, method, [0, 1, 2], [5, 6, 7], rule=rule)
    for image in range(3):
        assert torch.equal(batch[image : image + 1], sampled(model, method, [image], [5 + image], rule=rule))
    assert not torch.equal(batch[0], batch[1])


def test_given_codes_stay_and_the_run_ends_early(model, head):
    masked = torch.zeros(2, 4, 4, dtype=torch.bool)
    masked[0, 0], masked[1, :, 2] = True, True
    canvas, reports = Canvas(torch.arange(16).remainder(8).view(1, 4, 4).repeat(2, 1, 1), masked), []
    codes = sampled(model, Shortcut(head, 2), [0, 2], [1, 2], canvas=canvas, reports=reports)
    assert torch.equal(codes[~masked], canvas.codes[~masked])
    assert [report.unmasked for report in reports] == [1, 2, 1]  # of 1, 2, 3, 3, 3, 4 for a whole canvas


def test_images_with_different_masks_are_refused_in_one_batch(model):
    masked = torch.ones(2, 4, 4, dtype=torch.bool)
    masked[1, 0, 0] = False
    with pytest.raises(ValueError, match="\\[16, 15\\] masked tokens"):
        sampled(model, Vanilla(), [0], [1, 2], canvas=Canvas(torch.zeros(2, 4, 4, dtype=torch.int64), masked))


def test_one_class_serves_a_batch(model):
    assert torch.equal(sampled(model, Vanilla(), [1], [3, 4]), sampled(model, Vanilla(), [1, 1], [3, 4]))


def test_without_the_ramp_guidance_is_whole_from_the_first_step():
    assert [MaskGitRule().ramp(step, 5) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert [MaskGitRule(guidance_ramp=False).ramp(step, 5) for step in range(5)] == [1] * 5


def test_a_softmax_temperature_of_0_makes_all_codes_alike():
    logits, noise = torch.randn(1, 3, 8), torch.randn(1, 3, 8)
    codes, log_probability = MaskGitRule(softmax_temperature=0).sample(logits.clone(), noise.clone())
    assert torch.equal(codes, noise.argmax(-1))
    assert torch.allclose(log_probability.exp(), torch.tensor(1 / 8))


@pytest.mark.parametrize("steps", [1, 0])
def test_fewer_than_2_steps_are_refused(model, steps):
    with pytest.raises(ValueError, match=f"steps is {steps}, but .* at least 2"):
        sampled(model, Vanilla(), [0], [1], steps=steps)


@pytest.mark.parametrize(("budget", "most"), [(1, "1024"), (7, "the number of steps, 6")])
def test_a_budget_below_2_or_above_the_steps_is_refused(model, head, budget, most):
    with pytest.raises(ValueError, match=f"budget is {budget}, but must be .*from 2 to {most}"):
        sampled(model, Shortcut(head, budget), [0], [1])


def test_a_class_that_does_not_exist_is_refused(model):
    with pytest.raises(ValueError, match="class 3 does not exist: this model has the classes 0 to 2"):
        sampled(model, Vanilla(), [3], [1])


def test_a_schedule_may_be_a_list_of_counts(model):
    reports = []
    sampled(model, Vanilla(), [0], [1], steps=3, rule=MaskGitRule([2, 4, 10]), reports=reports)
    assert [report.unmasked for report in reports] == [2, 4, 10]
    with pytest.raises(ValueError, match="3 counts for 4 steps"):
        sampled(model, Vanilla(), [0], [1], steps=4, rule=MaskGitRule([2, 4, 10]))
    with pytest.raises(ValueError, match="add up to 15, which leaves 1 tokens masked"):
        sampled(model, Vanilla(), [0], [1], steps=3, rule=MaskGitRule([2, 4, 9]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"schedule": "sine"}, "schedule is 'sine', expected arccos, cosine"),
        ({"schedule": [3, 0]}, "schedule is \\[3, 0\\]"),
        ({"schedule": []}, "schedule is \\[\\]"),
        ({"schedule": {}}, "schedule is a dict"),
        ({"randomize": "maybe"}, "randomize is 'maybe', expected linear"),
        ({"softmax_temperature": -1}, "softmax_temperature is -1"),
        ({"choice_temperature": float("nan")}, "choice_temperature is nan"),
        ({"choice_temperature": "7"}, "choice_temperature is '7'"),
    ],
)
def test_senseless_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        MaskGitRule(**setting)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_estimate_of_memory_covers_the_run_and_little_more(name, dtype, batch, monkeypatch):
    """At the published size, counted on a device whose tensors have no numbers."""
    config = MaskGitConfig(n_layers=2)
    model = MaskGit(config, device="meta", dtype=dtype)
    head = MaskGitHead(MaskGitHeadConfig(d_model=768, n_heads=16), device="meta", dtype=dtype)
    method = {"vanilla": Vanilla(), "shortcut": Shortcut(head, 2), "ml-cache": MLCache(warmup=0.0, interval=2)}[name]
    all_masked = torch.zeros(batch, 1024, dtype=torch.int64, device="meta"), 1024
    monkeypatch.setattr(loop, "masked_positions", lambda canvas: all_masked)  # which needs numbers
    branches = class_guidance(config, [1], 2.8)
    with LiveMemory() as memory:
        sample(model, branches, Canvas.empty(batch, 32, 32, device="meta"), method, MaskGitRule(), steps=3, noise=ShapesOfNoise())
    assert memory.live == 0
    assert memory.peak <= run_bytes(config, dtype, [batch * 1025] * 2, batch * 1024, method) <= 1.25 * memory.peak


# Image tokenizer


@torch.inference_mode()
def test_tiled_decoding_gives_the_same_image():
    torch.manual_seed(0)
    model = Vqgan(VqganConfig(ch=32, ch_mult=(1, 1, 2), num_res_blocks=1, resolution=16, attn_resolutions=(4, 8), z_channels=8, embed_dim=4, n_embed=16)).eval()
    codes = torch.randint(16, (1, 40, 36))
    whole, tiled = model.decode(codes), model.decode(codes, tile=64)
    assert whole.shape == (1, 3, 160, 144)
    assert (whole - tiled).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"double_z": True}, "double_z is True"),
        ({"ch": 48}, "multiple of 32"),
        ({"ch_mult": []}, "ch_mult is \\[\\]"),
        ({"z_channels": "64"}, "z_channels is '64'"),
        ({"out_ch": 1}, "out_ch is 1"),
        ({"resolution": None}, "resolution is None"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(change, message):
    params = VqganConfig().to_params()
    params["ddconfig"] |= change
    with pytest.raises(ValueError, match=f"model.yaml: .*{message}"):
        VqganConfig.from_params(params)


def test_a_tokenizer_config_comes_back():
    assert VqganConfig.from_params(VqganConfig().to_params()) == VqganConfig()


def test_an_image_of_a_wrong_size_is_refused():
    model = Vqgan(VqganConfig(), device="meta", operations=uninitialised)
    with pytest.raises(ValueError, match="40x32 is not a multiple of 16"):
        model.encode(torch.zeros(1, 3, 32, 40))


# Classes


@pytest.fixture(scope="module")
def imagenet():
    return ClassNames.of(1000)


def test_imagenet_names_are_in_the_usual_order():
    names = imagenet_names()
    assert len(names) == 1000
    known = {1: "goldfish", 7: "cock", 179: "Staffordshire bullterrier", 282: "tiger cat", 367: "chimpanzee", 404: "airliner", 604: "hourglass"}
    known |= {681: "notebook", 724: "pirate", 751: "racer", 850: "teddy"}
    assert {number: names[number] for number in known} == known


@pytest.mark.parametrize(
    ("said", "number"),
    [(1, 1), ("1", 1), (" 999 ", 999), ("goldfish", 1), ("GoldFish", 1), ("tiger_cat", 282), ("tiger  cat", 282), ("goldfish (1)", 1), ("Cardigan (264)", 264), ("cardigan (474)", 474), ("crane", 517)],
)
def test_a_class_by_number_or_name(imagenet, said, number):
    assert imagenet.number(said) == number


def test_every_label_of_the_list_is_read_back(imagenet):
    assert [imagenet.number(label) for label in imagenet.labels()] == list(range(1000))


def test_several_classes_at_once(imagenet):
    assert imagenet.parse("goldfish, 7;tiger cat\n604,") == [1, 7, 282, 604]
    assert imagenet.parse([1, "cock"]) == [1, 7]
    assert imagenet.parse(5) == [5]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("goldfsh", "'goldfsh' is unknown. The nearest are goldfish \\(1\\)"),
        ("cardigan", "belongs to 2 classes: say Cardigan \\(264\\) or cardigan \\(474\\)"),
        (1000, "class 1000 does not exist.*0 to 999"),
        ("-1", "class -1 does not exist"),
        ("goldfish (7)", "7 is 'cock'"),
        ("qqqqqqqqqq", "is unknown. Expected a number from 0 to 999 or a name"),
        (1.5, "1.5 is float"),
        (True, "True is bool"),
    ],
)
def test_an_unknown_class_is_refused_and_the_nearest_offered(imagenet, said, message):
    with pytest.raises(ValueError, match=message):
        imagenet.number(said)


@pytest.mark.parametrize("nothing", ["", " , ;", []])
def test_no_class_is_refused(imagenet, nothing):
    with pytest.raises(ValueError, match="No class is given"):
        imagenet.parse(nothing)


def test_classes_without_names_have_numbers():
    classes = ClassNames.of(10)
    assert classes.labels() == [str(number) for number in range(10)]
    with pytest.raises(ValueError, match="no names. Give a number from 0 to 9"):
        classes.number("goldfish")
    assert ClassNames(2, ["boat", "tree"]).number("Tree") == 1
    with pytest.raises(ValueError, match="1 class names for 2 classes"):
        ClassNames(2, ["boat"])
