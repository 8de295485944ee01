"""How well the lakeside world's judge reads: python tests/tools/world_judge.py [--count 2000] [--size cpu] [--model FOLDER]

Prints, for the renderer's own pictures and for the same after losses such as an image tokenizer's, how many are judged right and
which attributes are at fault; and for pictures that show something else than was asked, how many are found out.
"""

import argparse
import io
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from migm_core.checkpoints import load_checkpoint  # noqa: E402
from migm_core.worlds.lakeside import (  # noqa: E402
    edits,
    judge,
    judge_edits,
    reader,  # noqa: E402
    render,
    render_layers,
    sample_scenes,
)
from migm_core.worlds.lakeside.scene import KIND_NAMES, NONE  # noqa: E402
from migm_core.worlds.recipe.sizes import SIZES  # noqa: E402


def halved(images: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0, mode="bilinear", align_corners=False)


def blurred(images: Tensor) -> Tensor:
    """Gaussian of 1.2 pixels."""
    weights = torch.exp(-(torch.arange(-4.0, 5.0) ** 2) / (2 * 1.2**2))
    kernel = (weights / weights.sum()).repeat(3, 1)
    padded = F.pad(images, (4, 4, 4, 4), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[:, None, None], groups=3), kernel[:, None, :, None], groups=3)


def as_jpeg(images: Tensor, quality: int = 60) -> Tensor:
    found = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()).save(file, "JPEG", quality=quality)
        found.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255)
    return torch.stack(found)


def noisy(images: Tensor) -> Tensor:
    """Colour noise, fine and in blotches of 8 pixels, each of 0.03."""
    generator = torch.Generator().manual_seed(0)
    blotches = torch.randn((len(images), 3, images.shape[-2] // 8, images.shape[-1] // 8), generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return (images + 0.03 * (blotches + torch.randn(images.shape, generator=generator))).clamp(0, 1)


LOSSES = {"as rendered": lambda images: images, "halved": halved, "blurred": blurred, "JPEG at 60": as_jpeg, "noisy": noisy}


def attribute(fault: str) -> str:
    """The kind of a fault: "colour of the house" is "colour", "house" is "kind", "house and tree" is "relation"."""
    if fault in KIND_NAMES:
        return "kind"
    return "relation" if " and " in fault else fault.split(" of the ")[0]


def in_parts(count: int, size: int = 100):
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def read_own_pictures(scenes, pixels: int) -> None:
    right, faults, objects = Counter(), {name: Counter() for name in LOSSES}, int(scenes.present.sum())
    for part in in_parts(len(scenes)):
        images = render(scenes[part], pixels)
        for name, loss in LOSSES.items():
            for n, verdict in enumerate(judge(loss(images), scenes[part])):
                right[name] += verdict.right
                faults[name].update(attribute(fault) for fault in verdict.faults)
                if name == "as rendered" and not verdict.right:
                    print(f"  picture {part.start + n}: {verdict.faults}")
    print(f"{len(scenes)} pictures, {objects} objects")
    for name in LOSSES:
        share = right[name] / len(scenes)
        print(f"{name}: {share:.2%} judged right; faults: {dict(faults[name]) or 'none'}")


def find_out_edits(scenes, pixels: int, seed: int) -> None:
    edited = edits(scenes, seed)
    found, named, total, fair = Counter(), Counter(), Counter(edited.names), Counter()
    for part in in_parts(len(scenes)):
        after = render(edited.scenes[part], pixels)
        for name, verdict, fulfilled in zip(edited.names[part], judge(after, scenes[part]), judge_edits(after, scenes[part], edited[part])):
            expected = {"remove": {"kind"}, "replace": {"kind"}, "add": {"objects"}}.get(name, {name})
            found[name] += not verdict.right
            named[name] += expected <= {attribute(fault) for fault in verdict.faults}
            fair[name] += fulfilled.right
    print("pictures after an edit, held against the scene before it: found out, and the attribute named; held against the edit: right")
    for name, count in total.items():
        print(f"  {name}: {found[name] / count:.1%}, {named[name] / count:.1%}; {fair[name] / count:.1%} of {count}")


def find_out_spoilt(scenes, pixels: int, seed: int) -> None:
    """Half of an object, in patches of 16 pixels, is missing or of another colour or kind."""
    generator, side = torch.Generator().manual_seed(seed), pixels // 16
    found, total = Counter(), Counter()
    for part in in_parts(len(scenes)):
        some = scenes[part]
        first = torch.arange(4) == 0
        others = {
            "half missing": replace(some, kind=some.kind.where(~first, NONE)),
            "of two colours": replace(some, colour=torch.where(first, (some.colour + 1 + some.size) % 6, some.colour)),
        }
        layers = render_layers(some, pixels)
        area = F.avg_pool2d(layers.masks[:, :1].float(), 16)
        for name, other in others.items():
            spoilt = render(other, pixels)
            order = torch.arange(float(side)).reshape(1, 1, -1, 1).expand(len(some), 1, side, side)
            order = torch.where(torch.rand((len(some), 1, 1, 1), generator=generator) < 0.5, order, order.transpose(2, 3))
            order = order + 0.01 * torch.rand(order.shape, generator=generator)
            sequence = order.flatten(1).argsort(1)
            share = area.flatten(1).gather(1, sequence).cumsum(1) / area.flatten(1).sum(1, keepdim=True)
            shown = torch.zeros(len(some), side**2).scatter_(1, sequence, (share < 0.5).float()).reshape(-1, 1, side, side)
            shown = shown.repeat_interleave(16, 2).repeat_interleave(16, 3)
            for verdict in judge(layers.image * (1 - shown) + spoilt * shown, some):
                found[name] += not verdict.right
                total[name] += 1
    for name, count in total.items():
        print(f"an object {name}: {found[name] / count:.1%} of {count} found out")


def find_out_doubles(scenes, pixels: int) -> None:
    """The first object stands in another column of its zone as well."""
    room = (scenes.present.sum(1) < 4) & ((scenes.zone == scenes.zone[:, :1]) & scenes.present).sum(1).eq(1)
    some = scenes[room]
    slot = some.present.sum(1)
    rows = torch.arange(len(some))
    doubled = {name: getattr(some, name).clone() for name in ("kind", "colour", "size", "finish", "column", "object_variation")}
    for name, values in doubled.items():
        values[rows, slot] = (values[:, 0] + 1) % 3 if name == "column" else values[:, 0]
    doubled = replace(some, **doubled)
    found = 0
    for part in in_parts(len(some)):
        found += sum("objects" in verdict.faults for verdict in judge(render(doubled[part], pixels), some[part]))
    print(f"an object twice: {found / len(some):.1%} of {len(some)} found out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", choices=SIZES, default="card", help="of the recipe's models: their scenes, and their pictures' pixels (default: card)")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a checkpoint of this world and of --size, whose image tokenizer is tried as well")
    parser.add_argument("--reader", type=Path, metavar="FILE", help="weights of the reader, in place of the world's own")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.reader is not None:
        reader.WEIGHTS = options.reader
    pixels, variety = SIZES[options.size].pixels, SIZES[options.size].variety
    if options.model is not None:
        checkpoint = load_checkpoint(options.model)
        if checkpoint.trained.sizes and (pixels, pixels) not in checkpoint.trained.sizes:
            own = ", ".join(f"{width}x{height}" for width, height in checkpoint.trained.sizes)
            parser.error(f"{options.model} makes pictures of {own} pixels, --size {options.size} of {pixels}x{pixels}. Give the checkpoint's own --size.")
        tokenizer = checkpoint.image_tokenizer.requires_grad_(False)
        LOSSES["after the image tokenizer"] = lambda images: tokenizer.decode(tokenizer.encode(images))
    scenes = sample_scenes(options.count, torch.Generator().manual_seed(options.seed), "test", variety)
    read_own_pictures(scenes, pixels)
    fewer = scenes[: options.count // 2]
    find_out_edits(fewer, pixels, options.seed)
    find_out_spoilt(fewer[: options.count // 4], pixels, options.seed)
    find_out_doubles(fewer, pixels)


if __name__ == "__main__":
    main()
