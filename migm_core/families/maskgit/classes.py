"""Classes by number or name: the 1,000 of ImageNet in their usual order, or a model's own."""

import difflib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ...arguments import shown

IMAGENET = Path(__file__).with_name("imagenet_classes.txt")


class ClassNames:
    """The classes of a model.

    Names are looked up whatever their case. Where two classes have one name, it is refused with both numbers; "name (number)" says
    which one is meant.

    Args:
        count: classes that the model has, numbered from 0.
        names: theirs, in order; none where they have no names.

    Raises:
        ValueError: there are names, but not one for each class.
    """

    def __init__(self, count: int, names: Sequence[str] = ()):
        if names and len(names) != count:
            raise ValueError(f"There are {len(names)} class names for {count} classes. Expected one for each, or none.")
        self.count, self.names = count, tuple(names)
        self._numbers: dict[str, list[int]] = {}
        for number, name in enumerate(self.names):
            self._numbers.setdefault(_plain(name), []).append(number)

    @classmethod
    def of(cls, count: int) -> "ClassNames":
        """ImageNet's for a model of 1,000 classes; for any other, numbers alone."""
        names = imagenet_names()
        return cls(count, names if len(names) == count else ())

    def label(self, number: int) -> str:
        """A class as a list of choices shows it, and as ``number`` reads it back."""
        if not self.names:
            return str(number)
        name = self.names[number]
        return name if len(self._numbers[_plain(name)]) == 1 else f"{name} ({number})"

    def labels(self) -> list[str]:
        """Of all classes, in order."""
        return [self.label(number) for number in range(self.count)]

    def number(self, said: int | str) -> int:
        """The number of one class, given by its number, its name, or "name (number)".

        Raises:
            ValueError: there is no such class, or more than one; the nearest names are offered.
        """
        if isinstance(said, bool) or not isinstance(said, (int, str)):
            raise ValueError(f"The class {shown(said)} is {type(said).__name__}, expected a number or a name.")
        if isinstance(said, int):
            return self._checked(said, shown(said))
        text = said.strip()
        if re.fullmatch(r"[+-]?[0-9]+", text):
            return self._checked(int(text[:20]), text)
        named = re.fullmatch(r"(.*\S)\s*\(([0-9]{1,9})\)", text, re.DOTALL)
        if named and _plain(named[1]) in self._numbers:
            number = self._checked(int(named[2]), named[2])
            if number not in self._numbers[_plain(named[1])]:
                raise ValueError(f"The class {text!r} does not exist: {number} is {self.names[number]!r}. Give the name or the number alone.")
            return number
        numbers = self._numbers.get(_plain(text), [])
        if len(numbers) > 1:
            choices = " or ".join(f"{self.names[number]} ({number})" for number in numbers)
            raise ValueError(f"The name {text!r} belongs to {len(numbers)} classes: say {choices}.")
        if not numbers:
            raise ValueError(self._unknown(text))
        return numbers[0]

    def parse(self, text: str | int | list[int | str]) -> list[int]:
        """The numbers of several classes, as a list or in one text, separated by commas, semicolons or new lines.

        Raises:
            ValueError: none is given, or one of them is no class.
        """
        parts = re.split(r"[,;\n]", text) if isinstance(text, str) else list(text) if isinstance(text, (list, tuple)) else [text]
        given = [part for part in parts if not isinstance(part, str) or part.strip()]
        if not given:
            raise ValueError(f"No class is given. Expected {self._expected()}, or several separated by commas.")
        return [self.number(part) for part in given]

    def _checked(self, number: int, text: str) -> int:
        if not 0 <= number < self.count:
            raise ValueError(f"The class {text:.40} does not exist: this model has the classes 0 to {self.count - 1}.")
        return number

    def _unknown(self, text: str) -> str:
        if not self.names:
            return f"The class {text[:80]!r} is unknown: this model's classes have no names. Give a number from 0 to {self.count - 1}."
        wanted = _plain(text)
        within = [name for name in self._numbers if wanted in name.split()]  # "terrier" is nearer to the terriers than to "carrier"
        near = list(dict.fromkeys([*difflib.get_close_matches(wanted, self._numbers, n=3), *within[:3], *difflib.get_close_matches(wanted, self._numbers, n=3, cutoff=0.4)]))
        offered = [f"{self.names[number]} ({number})" for name in near[:4] for number in self._numbers[name]]
        nearest = f" The nearest are {', '.join(offered)}." if offered else ""
        return f"The class {text[:80]!r} is unknown.{nearest} Expected {self._expected()}."

    def _expected(self) -> str:
        return f"a number from 0 to {self.count - 1}" + (" or a name" if self.names else "")


@cache
def imagenet_names() -> tuple[str, ...]:
    """The names of ImageNet-1k's classes, in the order of their synset ids, as torchvision's classifiers have them."""
    return tuple(IMAGENET.read_text(encoding="utf-8").splitlines())


def _plain(name: str) -> str:
    """A name as it is compared: case, underscores and spaces make no difference."""
    return " ".join(name.casefold().replace("_", " ").split())
