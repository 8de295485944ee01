"""How the recipe's image tokenizer learns."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from migm_core.tokenizers.amused_vq import ImageTokenizer, ImageTokenizerConfig
from migm_core.training import codebook as codebooks
from migm_core.training.group_norm import Float32Norm
from migm_core.training.inner_levels import InnerLevels
from migm_core.training.picture_tokenizer import UNTIL, fold, rate_at, standardised, train_picture_tokenizer, uncompiled
from migm_core.worlds.recipe import maskgit
from migm_core.worlds.recipe.lessons import for_encoding
from migm_core.worlds.recipe.sizes import SIZES

TINY = SIZES["tiny"]


def test_one_image_tokenizer_serves_both_families():
    torch.manual_seed(3)
    tokenizer = ImageTokenizer(TINY.tokenizer).requires_grad_(False)
    vqgan = maskgit.as_vqgan(tokenizer, TINY.pixels)
    codes, images = torch.randint(32, (2, 8, 8)), torch.rand(2, 3, 128, 128)
    torch.testing.assert_close(vqgan.decode(codes), tokenizer.decode(codes), atol=1e-5, rtol=0)
    grey = torch.full_like(images, 0.5)
    for model in (tokenizer, vqgan):
        model.encoder.conv_in.padding_mode = "replicate"  # else they see other edges
        model.encoder.conv_in._reversed_padding_repeated_twice = [1, 1, 1, 1]
    torch.testing.assert_close(vqgan.latents(images), tokenizer.latents(images), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(tokenizer.latents(grey), tokenizer.latents(images))
    with pytest.raises(ValueError, match="32 groups"):
        maskgit.vqgan_config(ImageTokenizerConfig(block_out_channels=(24, 48), norm_num_groups=8), 64)


def test_a_codebook_finds_clusters_and_revives_dead_entries():
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(8, 3, generator=generator)
    latents = centres[torch.randint(8, (2000,), generator=generator)] + 0.01 * torch.randn(2000, 3, generator=generator)
    found = codebooks.fit(latents, 8, generator)
    assert torch.cdist(centres, found).min(1).values.max() < 0.1
    entries = found.clone()
    entries[0] = 1000
    moving = codebooks.MovingCodebook(entries, decay=0.5)
    for _ in range(20):
        moving.update(latents, codebooks.nearest(latents, entries), torch.ones(2000))
    assert moving.revive(latents, generator) == 1 and entries.abs().max() < 100
    moving.counts[3] = 0
    assert moving.revive(latents, generator, of_first=lambda drawn: drawn * 0 + 7) == 1 and (entries[3] == 7).all(), "all processes take the first one's"


def test_folding_makes_the_encoder_give_standardised_latents():
    torch.manual_seed(0)
    model, images = ImageTokenizer(TINY.tokenizer), torch.rand(4, 3, 32, 32)
    moments = torch.stack([torch.zeros(8), torch.ones(8)])
    with torch.no_grad():
        for _ in range(200):
            expected = standardised(model.latents(images), moments)
        fold(model, moments)
        torch.testing.assert_close(model.latents(images), expected, atol=1e-3, rtol=1e-3)


def test_the_learning_rate_falls_before_the_codes_stand_still_and_once_more_for_the_decoder():
    rates = [rate_at(k / 100, 1000 + k) for k in range(101)]
    codes = round(100 * UNTIL[1])
    assert rates[0] == 1 and rates[codes - 1] == 0.1 and rates[codes] == 0.5 and rates[100] == 0
    assert rates[:codes] == sorted(rates[:codes], reverse=True) and rates[codes:] == sorted(rates[codes:], reverse=True)
    assert rate_at(0.0, 0) == 0.01, "the first steps are small"


SMALL_TOKENIZER = ImageTokenizerConfig(block_out_channels=(8, 8, 16), latent_channels=4, num_vq_embeddings=16, layers_per_block=1, norm_num_groups=4)


def test_the_outermost_level_begins_with_what_the_inner_ones_show():
    torch.manual_seed(0)
    inner, images = InnerLevels(ImageTokenizer(SMALL_TOKENIZER)), torch.rand(2, 3, 32, 32)
    inner.norm.weight.data.uniform_()
    torch.nn.init.dirac_(inner.to_pixels.weight)  # sees no neighbours, which are nearer in the larger picture
    whole = uncompiled(inner)
    with torch.no_grad():
        latents = inner.latents(images)
        torch.testing.assert_close(latents, whole.latents(images), atol=1e-5, rtol=1e-4)
        half = inner.decode_latents(latents)
        enlarged = whole.decode_latents(latents)
        torch.testing.assert_close(enlarged, torch.nn.functional.interpolate(half, scale_factor=2.0), atol=1e-5, rtol=1e-4)
        assert half.shape[-1] == 16 and half.std() > 0.1
        inner.begin_outer()
        inner.use_outer()
        torch.testing.assert_close(inner.decode_latents(latents), enlarged, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="two equal numbers"):
        InnerLevels(ImageTokenizer(ImageTokenizerConfig(block_out_channels=(8, 16), norm_num_groups=4)))


def test_a_tokenizer_whose_outermost_level_learns_last(tmp_path):
    def pictures(step: int):
        generator = torch.Generator().manual_seed(step)
        while True:
            colours = torch.rand(8, 3, 4, 4, generator=generator)
            yield torch.nn.functional.interpolate(colours, scale_factor=4.0), torch.ones(8, 1, 16, 16)

    def train(seconds: float) -> tuple[ImageTokenizer, list[int]]:
        """Seconds are counted by the steps, 40 of them each. The phases of the checkpoints; the last of them hold what is returned."""
        phases, shown, read = [], [], [0]

        def look(model: ImageTokenizer, phase: int) -> None:
            phases.append(phase)
            shown.append(model)

        def clock() -> float:
            read[0] += 1
            return read[0] / 160

        found = train_picture_tokenizer(
            tmp_path, SMALL_TOKENIZER, pictures, seconds=seconds, clock=clock, outer_last=True, on_checkpoint=look
        )  # fmt: skip
        torch.testing.assert_close(shown[-1].state_dict(), found.state_dict())
        return found, phases

    images = next(pictures(10**6))[0]
    first, phases = train(3)
    assert phases[-1] == 2 and len(first.encode(images).unique()) > 4
    error = (first.decode(first.encode(images)) - images).square().mean()
    assert error < 0.8 * images.var()
    later, _ = train(5)
    assert torch.equal(later.encode(images), first.encode(images)), "codes stand still when the training goes on"
    train(5)  # it is over: nothing changes
    assert (later.decode(later.encode(images)) - images).square().mean() < error


def test_a_tokenizer_that_began_with_weights_goes_on_from_its_checkpoint(tmp_path):
    def pictures(step: int):
        while True:
            yield torch.full((2, 3, 16, 16), 0.5), torch.ones(2, 1, 16, 16)

    torch.manual_seed(0)
    weights = ImageTokenizer(SMALL_TOKENIZER).state_dict()
    ticks = iter(range(10**6))
    train = partial(train_picture_tokenizer, tmp_path, SMALL_TOKENIZER, pictures, clock=lambda: next(ticks) / 10, outer_last=True)
    train(seconds=2, start=weights)
    assert train(seconds=4).decode(torch.zeros(1, 4, 4, dtype=torch.int64)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("outer_last", [False, True])
def test_a_decoder_learns_alone_where_a_model_has_learned_the_codes(tmp_path, outer_last):
    torch.manual_seed(0)
    start = ImageTokenizer(SMALL_TOKENIZER)
    if outer_last:
        start = InnerLevels(start).tokenizer
    start = start.requires_grad_(False)
    images, ticks = torch.rand(4, 3, 32, 32), iter(range(10**6))

    def pictures(step: int):
        while True:
            yield images, torch.ones(4, 1, 32, 32)

    error = lambda tokenizer: (tokenizer.decode(tokenizer.encode(images)) - images).square().mean()  # noqa: E731
    how = {"start": start.state_dict(), "outer_last": outer_last, "decoder_alone": True, "clock": lambda: next(ticks) / 10}
    before, codes = error(start), start.encode(images)
    found = train_picture_tokenizer(tmp_path, SMALL_TOKENIZER, pictures, seconds=30, **how).requires_grad_(False)
    assert error(found) < 0.8 * before
    assert torch.equal(found.encode(images), codes)


def test_a_block_that_adds_nothing_is_left_out_of_encoding():
    torch.manual_seed(0)
    tokenizer = InnerLevels(ImageTokenizer(SMALL_TOKENIZER)).tokenizer.requires_grad_(False)
    fast, images = for_encoding(tokenizer), torch.rand(2, 3, 32, 32)
    assert not fast.encoder.down_blocks[0].resnets and len(fast.encoder.down_blocks[1].resnets) == 1
    torch.testing.assert_close(fast.latents(images), tokenizer.latents(images), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("height, width", [(4, 4), (20, 21)], ids=["fewer pixels than are added up at once", "some left over"])
def test_a_norm_in_bfloat16_has_the_gradients_of_one_in_64_bits(height, width):
    generator = torch.Generator().manual_seed(0)
    images, of_result = (torch.randn(3, 32, height, width, generator=generator).bfloat16() for _ in range(2))
    images = (2 * images + 1).contiguous(memory_format=torch.channels_last)
    norm = Float32Norm(16, 32, eps=1e-6)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5, generator=generator)
        norm.bias.normal_(generator=generator)
    found, exact = images.clone().requires_grad_(), images.double().requires_grad_()
    weight, bias = (p.detach().double().requires_grad_() for p in norm.parameters())
    result, expected = norm(found), F.group_norm(exact, 16, weight, bias, 1e-6)
    assert result.dtype == torch.bfloat16
    result.backward(of_result)
    expected.backward(of_result.double())
    for ours, true in [(result, expected), (found.grad, exact.grad), (norm.weight.grad, weight.grad), (norm.bias.grad, bias.grad)]:
        assert (ours.double() - true).norm() < 0.01 * true.norm()
