"""What a prompt says, read back from its words. Knows the words of ``MEANINGS`` and the little grammar around them."""

import re

import torch

from .scene import COLOURS, FINISHES, GROUNDS, KIND_FINISHES, KIND_NAMES, NONE, OBJECTS, OPPOSITE, RELATIONS, SETTING, SIZES, TIMES, WEATHERS, Request
from .words import MEANINGS, split_words

_OPTIONS = {
    "time": TIMES,
    "weather": WEATHERS,
    "ground": GROUNDS,
    "kind": KIND_NAMES,
    "colour": COLOURS,
    "size": SIZES,
    "finish": FINISHES,
    "relation": RELATIONS,
}
MEANING = {
    word: (name, _OPTIONS[name].index(value)) for name, values in MEANINGS.items() for value, words in values.items() for word in words
}
_FIELDS = ("kind", "colour", "size", "finish")


def parse(prompts: list[str]) -> Request:
    """What each prompt says. Words without a meaning here are passed over; see ``unknown_words``.

    Raises:
        ValueError: a prompt has more than four objects, or contradicts itself.
    """
    read = [_Reader(prompt) for prompt in prompts]
    free = [dict.fromkeys(_FIELDS, NONE)] * OBJECTS
    objects = [(reader.objects + free)[:OBJECTS] for reader in read]
    rows = lambda name: torch.tensor([[found[name] for found in row] for row in objects], dtype=torch.int64)  # noqa: E731
    relation = torch.full((len(read), OBJECTS, OBJECTS), NONE)
    for n, reader in enumerate(read):
        for (first, second), value in reader.relations.items():
            relation[n, first, second] = value
    setting = {name: torch.tensor([r.setting.get(name, NONE) for r in read], dtype=torch.int64) for name in SETTING}
    return Request(**setting, **{name: rows(name).reshape(len(read), OBJECTS) for name in _FIELDS}, relation=relation)


# "under a clear sky" tells of the weather, not of what lies under what.
_UNDER_SKY = re.compile(r"\b(?:under|over|below|beneath)\b(?=(?:\s+(?!(?:it|the)\b)\w+){1,3}?\s+(?:sky|clouds)\b)", re.IGNORECASE)


def _opens(before: list[str]) -> bool:
    """Whether a relation that follows these words opens a clause, as in ", to the left of it a duck"."""
    k = len(before)
    while k and before[k - 1] in ("to", "the", "on", "in", "at"):
        k -= 1
    return k == 0 or before[k - 1] in (",", ".", "and", "with")


class _Reader:
    """Reads one prompt from left to right.

    Attributes:
        setting: index of each attribute that was said.
        objects: indices by attribute, NONE where open, in the order of their first mention.
        relations: index into RELATIONS by (later object, earlier object).
    """

    def __init__(self, prompt: str):
        self.prompt = prompt
        self.setting: dict[str, int] = {}
        self.objects: list[dict[str, int]] = []
        self.relations: dict[tuple[int, int], int] = {}
        self._adjectives: dict[str, int] = {}  # that wait for their noun
        self._mentioned: int | None = None  # the object mentioned last
        self._pending: tuple[int | None, int] | None = None  # (subject, relation) that waits for what it relates to
        self._inverted: tuple[int, int] | None = None  # (relation, object) that waits for its subject
        self._before: int | None = None  # the one before that
        words = split_words(_UNDER_SKY.sub(" ", prompt))
        for k, word in enumerate(words):
            self._word(word, words[:k], words[k + 1 : k + 2])
        self._end_sentence()

    def _word(self, word: str, before: list[str], after: list[str]) -> None:
        if word == ".":
            self._end_sentence()
            return
        if word == "it" and (after != ["is"] or self._pending is not None):
            is_subject = self._pending is not None and self._pending[0] == self._mentioned
            index = self._before if is_subject else self._mentioned
            if index is not None:
                self._object(index)
            return
        name, value = MEANING.get(word, (None, None))
        if name in SETTING:
            self.setting[name] = self._agreed(self.setting.get(name), value, word)
        elif name == "kind":
            self._object(self._of_kind(value))
        elif name == "relation":
            self._pending = (None if _opens(before) else self._mentioned, value)
        elif name is not None:
            if self._mentioned is not None and (word == "stripes" or before[-2:] == ["made", "of"]):
                self._describe(self._mentioned, {name: value})
            else:
                self._adjectives[name] = value

    def _object(self, index: int) -> None:
        """An object is mentioned, by a noun or "it"."""
        if self._adjectives:
            self._describe(index, self._adjectives)
            self._adjectives = {}
        if self._inverted is not None:
            relation, other = self._inverted
            self._inverted = None
            self._relate(index, relation, other)
        elif self._pending is not None:
            subject, relation = self._pending
            self._pending = None
            if subject is None:
                self._inverted = (relation, index)
            else:
                self._relate(subject, relation, index)
        if index != self._mentioned:
            self._before, self._mentioned = self._mentioned, index

    def _of_kind(self, kind: int) -> int:
        for index, found in enumerate(self.objects):
            if found["kind"] == kind:
                return index
        if len(self.objects) == OBJECTS:
            raise ValueError(f"{self.prompt!r} has more than {OBJECTS} objects.")
        self.objects.append({"kind": kind, "colour": NONE, "size": NONE, "finish": NONE})
        return len(self.objects) - 1

    def _describe(self, index: int, said: dict[str, int]) -> None:
        found = self.objects[index]
        for name, value in said.items():
            if name == "finish" and value not in KIND_FINISHES[found["kind"]]:
                raise ValueError(f"{self.prompt!r}: a {KIND_NAMES[found['kind']]} cannot be {FINISHES[value]}.")
            found[name] = self._agreed(None if found[name] == NONE else found[name], value, name)

    def _relate(self, first: int, relation: int, second: int) -> None:
        if first == second:
            raise ValueError(f"{self.prompt!r} relates an object to itself.")
        if first < second:
            first, second, relation = second, first, int(OPPOSITE[relation])
        self.relations[first, second] = self._agreed(self.relations.get((first, second)), relation, "relation")

    def _agreed(self, earlier: int | None, value: int, word: str) -> int:
        if earlier is not None and earlier != value:
            raise ValueError(f"{self.prompt!r} contradicts itself at {word!r}.")
        return value

    def _end_sentence(self) -> None:
        if self._adjectives and self._mentioned is not None:
            self._describe(self._mentioned, self._adjectives)
        self._adjectives = {}
        self._pending = self._inverted = None
