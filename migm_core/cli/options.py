"""Options that commands share. Those for settings are made from what the methods and the families say of themselves.

Imports torch: commands import this module when they run.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field
from pathlib import Path
from typing import Any

from ..arguments import read_text
from ..families import FAMILIES, Family
from ..pipeline import Pipeline
from ..sampling.methods import METHODS
from ..sampling.setting import settings_of
from ..switches import Switches


def add_prompts(parser: argparse.ArgumentParser, prompt: tuple[str, str]) -> None:
    """Add the options of ``prompts``.

    Args:
        prompt: what it is called, and what it says.
    """
    parser.add_argument("prompt", metavar=prompt[0], nargs="?", help=prompt[1])
    parser.add_argument("--prompt-file", metavar="FILE", type=Path, help="a prompt from each line instead; blank lines are skipped")
    parser.add_argument("--negative", metavar="TEXT", default="", help="what to steer away from, with cfg above 0")


def prompts(args: argparse.Namespace, called: str = "PROMPT") -> dict[int, str]:
    """The prompts by the numbers of their lines; that of the command line has number 1.

    Args:
        called: what the command calls a prompt.

    Raises:
        ValueError: there is none, or one too many, or a file that is no text.
    """
    if (args.prompt is None) == (args.prompt_file is None):
        raise ValueError(f"Expected either {'an' if called[0] in 'AEIOU' else 'a'} {called} or --prompt-file FILE.")
    return {1: args.prompt} if args.prompt_file is None else lines_of(args.prompt_file)


def lines_of(path: Path) -> dict[int, str]:
    """The lines of a file but blank ones, by their numbers.

    Raises:
        ValueError: there is none, or the file is no text.
    """
    text = read_text(path, "a prompt a line")
    lines = {number: line.strip() for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    if not lines:
        raise ValueError(f"{path} holds no prompts. Expected one a line.")
    return lines


def add_model(parser: argparse.ArgumentParser, *, head: bool = True) -> None:
    """Add the options of ``load_pipeline``; without ``head`` none for a head, and none for decoding images."""
    parser.add_argument("--model", metavar="PATH", default="demo", help="a checkpoint: a folder, a file, or OWNER/NAME on Hugging Face (default: demo, the bundled model; demo-classes is that of classes)")
    if head:
        parser.add_argument("--head", metavar="PATH", default="auto", help="a shortcut head: a file, OWNER/NAME:FILE on Hugging Face, or none (default: a bundled model's own)")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")
    parser.add_argument("--dtype", metavar="T", default="auto", help="auto, bf16, fp16 or fp32 (default: auto)")
    parser.add_argument("--stream", action=argparse.BooleanOptionalAction, help="keep the base's blocks in main memory, and move each to the device when it computes (default: where they have no room there)")
    parser.add_argument("--no-mmap", dest="mmap", action="store_false", help="copy weights to memory, so that their files may be replaced meanwhile")
    parser.add_argument("--compile", action="store_true", help="compile the base model's blocks: faster steps, after a slow first run")
    parser.add_argument("--channels-last", action="store_true", help="another memory layout of the image tokenizer, which takes less memory on a GPU")
    if head:
        parser.add_argument("--tile", metavar="PX", type=int, default=0, help="decode larger images in parts of PX x PX pixels, 64 or more: less memory, the same image")
    parser.add_argument("--tf32", action="store_true", help="CUDA, with dtype fp32: matrix products with fewer digits, and faster")


def load_pipeline(args: argparse.Namespace) -> Pipeline:
    head = getattr(args, "head", "none")
    switches = Switches(compile=args.compile, channels_last=args.channels_last, tile=getattr(args, "tile", 0), tf32=args.tf32)
    return Pipeline.load(args.model, None if head == "none" else head, dtype=args.dtype, device=args.device, stream=args.stream, mmap=args.mmap, switches=switches)


def add_settings(
    parser: argparse.ArgumentParser, *, method: bool = True, of_methods: bool = True, size: bool = True, families: Sequence[Family] = FAMILIES
) -> None:
    """Add an option for every setting of a run but seed and batch.

    Args:
        method: one that chooses it.
        of_methods: those of methods.
        size: one for the size.
        families: whose models the command runs.
    """
    if size:
        parser.add_argument("--size", metavar="WxH", type=_size, default=(None, None), help="of the image, in pixels")
    parser.add_argument("--steps", metavar="N", type=int, help="steps that unmask the image")
    parser.add_argument("--cfg", dest="guidance_scale", metavar="G", type=float, help="how closely to follow the prompt; 0 halves the work")
    if method:
        said = "; ".join(f"{each.name}: {each.about}" for each in METHODS.values())
        parser.add_argument("--method", choices=list(METHODS), help=f"{said} (default: shortcut where there is a head)".replace("%", "%%"))
    groups: dict[str, Any] = {}
    for name, (owners, field) in _of_registries(of_methods, families).items():
        title = f"settings of {' and '.join(owners)}"
        groups[title] = groups.get(title) or parser.add_argument_group(title)
        add_setting(groups[title], name, field)


def asked(args: argparse.Namespace, family: Family) -> dict[str, Any]:
    """The settings that a command was given, by their names in ``Pipeline.settings``.

    Raises:
        ValueError: one is of another family's models.
    """
    own = settings_of(family.rule)
    for other in FAMILIES:
        for name in settings_of(other.rule):
            if name not in own and getattr(args, name, None) is not None:
                raise ValueError(f"{option(name)} is a setting of {other.title}, but the model is {family.title}, which has {', '.join(map(option, own))}.")
    names = ["steps", "guidance_scale", "image_guidance_scale", "method", *_of_registries()]
    width, height = getattr(args, "size", (None, None))
    values = {"width": width, "height": height, **{name: getattr(args, name, None) for name in names}}
    return {name: value for name, value in values.items() if value is not None}


def unused(given: Mapping[str, Any], method: str, probe: bool | None = None) -> list[str]:
    """A sentence for each setting that was given, but that the method does not use.

    Args:
        probe: what --probe says; only a method with a head has one to measure.
    """
    others = {name for each in METHODS.values() for name in each.settings()} - set(METHODS[method].settings())
    idle = [name for name in given if name in others] + ["probe"] * bool(probe and not METHODS[method].needs_head)
    return [f"{option(name)} changes nothing with the {method} method." for name in idle]


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected WIDTHxHEIGHT in pixels, for example 1024x768")
    return int(match[1]), int(match[2])


def _of_registries(of_methods: bool = True, families: Sequence[Family] = FAMILIES) -> dict[str, tuple[list[str], Field]]:
    """Settings of methods and of families by name: whose they are, in words, and the first one's field."""
    found: dict[str, tuple[list[str], Field]] = {}
    owners = [(f"the {each.name} method", each.settings()) for each in METHODS.values() if of_methods]
    owners += [(each.title, settings_of(each.rule)) for each in families]
    for owner, settings in owners:
        for name, field in settings.items():
            found.setdefault(name, ([], field))[0].append(owner)
    return found


def add_setting(group, name: str, field: Field) -> None:
    """Add the option of a field that says its range and meaning."""
    flag, about, choices = option(name), field.metadata["about"].replace("%", "%%"), field.metadata.get("choices")
    if choices == (True, False):
        group.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, help=about)
    elif choices:
        group.add_argument(flag, dest=name, choices=choices, help=about)
    elif isinstance(field.default, tuple):
        group.add_argument(flag, dest=name, metavar="L,T,R,B", type=_sides, help=f"{about}; one number is for all")
    else:
        metavar, kind = ("N", int) if isinstance(field.default, int) else ("X", float)
        group.add_argument(flag, dest=name, metavar=metavar, type=kind, help=about)


def option(name: str) -> str:
    """What a setting is called on the command line."""
    return "--cfg" if name == "guidance_scale" else "--" + name.replace("_", "-")


@contextmanager
def named_as_options() -> Iterator[None]:
    """Have errors name settings as the command line does."""
    try:
        yield
    except ValueError as error:
        raise type(error)(str(error).replace("image_guidance_scale", "image-cfg").replace("guidance_scale", "cfg")) from None


def _sides(text: str) -> tuple[int, int, int, int]:
    """Pixels at the left, top, right and bottom."""
    if not re.fullmatch(r"\d{1,9}(,\d{1,9},\d{1,9},\d{1,9})?", text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no LEFT,TOP,RIGHT,BOTTOM; expected pixels, for example 0,0,256,0, or one number for all sides")
    sides = tuple(map(int, text.split(",")))
    return sides * 4 if len(sides) == 1 else sides
