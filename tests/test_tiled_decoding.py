"""Decoding in tiles: the picture that whole decoding gives, for a fraction of its memory."""

from types import SimpleNamespace

import pytest
import torch
from live_memory import LiveMemory
from nodes_without_host import room
from small_model import scatter

from migm_core.canvas import Canvas
from migm_core.pipeline import Pipeline
from migm_core.switches import Switches
from migm_core.tokenizers.amused_vq import ImageTokenizer, ImageTokenizerConfig
from migm_core.tokenizers.tiled_decoding import MARGIN, decode_tiled

# Of values in 0..1; one step of a picture's 255 is 4e-3. Against float64, whole decoding is off by 1.4e-4 here, tiles by 1.3e-6.
ROUNDING = 5e-4


@pytest.fixture(scope="module")
def bundled():
    return Pipeline.load(head=None, dtype="fp32", device="cpu").checkpoint.image_tokenizer


def noise(tokenizer, *shape) -> torch.Tensor:
    return torch.randint(0, len(tokenizer.quantize.embedding.weight), shape, generator=torch.Generator().manual_seed(0))


def two_worlds(tokenizer) -> torch.Tensor:
    """A canvas (1, 20, 18) whose quarters differ as much as any can: each norm's statistics differ from tile to tile."""
    codes = torch.full((1, 20, 18), 7)
    codes[:, :10, :9] = noise(tokenizer, 1, 10, 9)
    codes[:, 10:, 9:] = 500
    return codes


@torch.inference_mode()
@pytest.mark.parametrize("tile", [64, 100, 250])
@pytest.mark.parametrize("make_codes", [lambda tokenizer: noise(tokenizer, 1, 20, 18), two_worlds], ids=["noise", "two worlds"])
def test_the_bundled_model_decodes_to_the_same_picture(bundled, make_codes, tile):
    codes = make_codes(bundled)
    whole, tiled = bundled.decode(codes), bundled.decode(codes, tile)
    assert tiled.shape == whole.shape == (1, 3, 320, 288)
    assert (tiled - whole).abs().max() < ROUNDING
    # Nor is what is left larger where tiles meet.
    error = (tiled - whole).abs()[0].amax(0)
    seams = torch.zeros(error.shape, dtype=torch.bool)
    for cut in range(tile, 320, tile):
        seams[cut - 1 : cut + 1] = True
        seams[:, cut - 1 : cut + 1] = True
    assert error[seams].mean() <= 2 * error[~seams].mean() + 1e-7


@torch.inference_mode()
def test_parts_decoded_each_for_itself_would_show_seams(bundled):
    """What tiles are for here: the same picture put together from its quarters differs visibly."""
    codes = two_worlds(bundled)
    quarters = [torch.cat([bundled.decode(part) for part in row.split(9, dim=2)], dim=3) for row in codes.split(10, dim=1)]
    assert (torch.cat(quarters, dim=2) - bundled.decode(codes)).abs().max() * 255 > 20


@torch.inference_mode()
def test_images_of_a_batch_keep_their_own_statistics(bundled):
    codes = noise(bundled, 2, 8, 8)
    codes[1] = 3
    assert (bundled.decode(codes, 64) - bundled.decode(codes)).abs().max() < ROUNDING


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 1), (3, 20), (17, 5)])
def test_sides_that_no_tile_divides(bundled, size):
    codes = noise(bundled, 1, *size)
    assert (bundled.decode(codes, 65) - bundled.decode(codes)).abs().max() < ROUNDING


@torch.inference_mode()
def test_other_depths_and_tiny_tiles():
    """Several blocks a stage, and tiles hardly larger than their margins."""
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 16, 16), "latent_channels": 4, "num_vq_embeddings": 32, "layers_per_block": 2, "norm_num_groups": 4}
    tokenizer = scatter(ImageTokenizer(ImageTokenizerConfig(**sizes))).eval()
    latents = torch.randn(2, 4, 9, 13)
    whole = tokenizer.decoder(latents)
    for tile in (2, 2 * MARGIN, 7):
        assert (decode_tiled(tokenizer.decoder, latents, tile) - whole).abs().max() < 1e-4 * whole.abs().max()


@torch.inference_mode()
def test_memory_of_the_published_tokenizer():
    """True shapes on the meta device; the count for whole decoding is what the allocator on a CPU counts too, 3.0 GiB."""
    tokenizer = ImageTokenizer(ImageTokenizerConfig(), device="meta").eval()
    peak = {}
    for tile in (0, 256):
        with LiveMemory() as memory:
            tokenizer.decode(torch.zeros(1, 64, 64, dtype=torch.int64, device="meta"), tile)
        peak[tile] = memory.peak / 2**30
    assert 2.9 < peak[0] < 3.1
    assert peak[256] < 1.2


@pytest.mark.parametrize("tile", [-1, 1, 63])
def test_a_tile_too_small(bundled, tile):
    with pytest.raises(ValueError, match=f"tile is {tile}, .*at least 64 pixels"):
        bundled.decode(torch.zeros(1, 2, 2, dtype=torch.int64), tile)


@pytest.mark.parametrize(("asked", "tried"), [(0, [0, 256]), (512, [512, 256]), (64, [64])])
def test_an_image_without_room_is_decoded_in_tiles(pipeline, monkeypatch, asked, tried):
    """After minutes of sampling it must not be lost."""
    attempts, whole = [], pipeline.checkpoint.image_tokenizer.decode

    def decode(codes, tile):
        attempts.append(tile)
        if tile != 256:
            raise torch.OutOfMemoryError
        return whole(codes, tile)

    monkeypatch.setattr(pipeline.checkpoint.image_tokenizer, "decode", decode)
    monkeypatch.setattr(pipeline, "switches", Switches(tile=asked))
    canvas = Canvas(torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 2, 2, dtype=torch.bool))
    if tried[-1] == 256:
        assert pipeline.decode(canvas).shape[:2] == (1, 3)
    else:
        with pytest.raises(torch.OutOfMemoryError):
            pipeline.decode(canvas)
    assert attempts == tried


@pytest.mark.parametrize(("asked", "tried"), [(0, [0, 256]), (512, [512, 256]), (64, [64])])
def test_in_the_host_an_image_without_room_is_decoded_in_tiles(monkeypatch, asked, tried):
    """Whatever node decodes it; where tiles as small find no room either, the host's own error stands."""
    attempts = []

    def decode(codes, tile):
        attempts.append(tile)
        if tile != 256:
            raise MemoryError
        return torch.zeros(1, 3, 8, 16)

    pictures = room("host.pictures")
    host = SimpleNamespace(OOM_EXCEPTION=MemoryError, soft_empty_cache=lambda: None)
    monkeypatch.setattr(pictures, "comfy", SimpleNamespace(model_management=host))
    model = SimpleNamespace(checkpoint=SimpleNamespace(image_tokenizer=SimpleNamespace(decode=decode)), image_tokenizer=SimpleNamespace(load_device="cpu"), downscale_factor=8)
    canvas = torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.bool)
    if tried[-1] == 256:
        assert pictures.decode(model, *canvas, asked).shape == (3, 8, 16)
    else:
        with pytest.raises(MemoryError):
            pictures.decode(model, *canvas, asked)
    assert attempts == tried
