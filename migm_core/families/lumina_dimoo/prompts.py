"""Prompts: templates around a user's text, as token ids. The text is data: special tokens written in it stay text."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ...checkpoints import text_tokenizer
from .config import TokenLayout

# The model's tasks and the system prompt each was trained with (Lumina-DiMOO, arXiv 2510.06308).
SYSTEM_PROMPTS = {
    "text_to_image": "Generate an image according to the text prompt.",
    "editing": "Generate an image applying the following editing instruction based on the original image.",
    "dense_prediction": "Perform dense prediction on the given images.",
    "control": "Generate an image according to the text prompt and the given control image.",
    "subject": "Generate an image according to the text prompt and the given object image.",
    "multi_view": "Generate a view-image based on the given image.",
    "style": "Transform the current image into the style of the provided image.",
    "understanding": (
        "You are a multimodal model that can process both text and images. Answer the following question based on the "
        "provided images. Analyze each image and combine relevant details to answer."
    ),
}

# What the published image-to-image script falls back to; no training used it.
FALLBACK = "prompt_and_image"
_FALLBACK_PROMPT = "Generate an image according to the prompt and image."

# The maps of dense prediction, by the names that the published script uses.
MAPS = {
    "canny": "canny edge map",
    "hed": "hed edge map",
    "depth": "depth map",
    "normal": "normal map",
    "openpose": "pose estimation map",
    "sam2mask": "sam2 mask",
}

# The longest prompt that is accepted, in tokens. Attention is computed over it at every full step and in every branch.
MAX_PROMPT_TOKENS = 2048
# Room for 64 characters a token, where words have six. Longer texts are refused unread: tokenising 20 MB takes minutes.
MAX_PROMPT_CHARACTERS = 64 * MAX_PROMPT_TOKENS

_HALF = re.compile("[\ud800-\udfff]")  # surrogates, which pair up in files and never in a str
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class PromptEncoder:
    """Text to token ids with a checkpoint's own tokenizer.

    Attributes:
        trusted: the tokenizer with its added tokens: for the templates.
        plain: the same without any added token, so that no text can produce one: for what users write.
        unknown: id of the token that stands for all unknown words; None for a tokenizer that has none, since it spells them.
        path: the tokenizer's file, for messages.
    """

    trusted: Tokenizer
    plain: Tokenizer
    layout: TokenLayout
    unknown: int | None = None
    path: str | Path = "the text tokenizer"

    @classmethod
    def of(cls, tokenizer: Tokenizer, layout: TokenLayout) -> "PromptEncoder":
        return cls.read(tokenizer.to_str().encode(), layout, cls.path)

    @classmethod
    def read(cls, content: bytes, layout: TokenLayout, path: str | Path) -> "PromptEncoder":
        """Read a tokenizer.json.

        Args:
            path: where it came from, for messages.

        Raises:
            CheckpointError: it is no fast tokenizer.
        """
        definition = text_tokenizer.read_definition(content, path)
        trusted = text_tokenizer.build(definition, path)
        # A post-processor might add special tokens at the ends.
        plain = text_tokenizer.build({**definition, "added_tokens": [], "post_processor": None}, path)
        return cls(trusted, plain, layout, _unknown(definition["model"]), path)

    def text(self, text: str, what: str = "prompt") -> list[int]:
        """Tokenise a user's text.

        Args:
            what: it is, for messages.

        Raises:
            ValueError: it is longer than MAX_PROMPT_CHARACTERS or MAX_PROMPT_TOKENS, or holds what is no text.
            CheckpointError: the tokenizer fails.
        """
        return self._encode(text, what).ids

    def _encode(self, text: str, what: str):
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise ValueError(
                f"The {what} has {len(text):,} characters; the limit is {MAX_PROMPT_CHARACTERS:,} characters and {MAX_PROMPT_TOKENS} tokens. Shorten it."
            )
        if half := _HALF.search(text):
            raise ValueError(f"The {what} holds U+{ord(half[0]):04X} as character {half.start() + 1}, half of a character. Remove it.")
        with text_tokenizer.failures(f"{self.path}: the tokenizer fails on the {what}"):
            encoding = self.plain.encode(text, add_special_tokens=False)
        if len(encoding.ids) > MAX_PROMPT_TOKENS:
            raise ValueError(
                f"The {what} has {len(encoding.ids)} tokens ({len(text.split())} words); the limit is {MAX_PROMPT_TOKENS} tokens. Shorten it."
            )
        return encoding

    def unknown_words(self, *prompts: str, negative: str = "") -> list[str]:
        """Find the words that the model does not know, as written, each once. Emoji and the like count, punctuation does not.

        Raises:
            ValueError: as ``text``.
        """
        words = [word for text in prompts for word in self._unknown_words(text, "prompt")]
        return list(dict.fromkeys([*words, *self._unknown_words(negative, "negative prompt")]))

    def _unknown_words(self, text: str, what: str) -> Iterator[str]:
        if self.unknown is None:
            return
        encoding = self._encode(text, what)
        tokens = [-1] * len(text)  # of each character
        for token, (start, stop) in zip(encoding.ids, encoding.offsets):
            tokens[start:stop] = [token] * (stop - start)
        for word in _WORD.finditer(text):
            of_word = tokens[word.start() : word.end()]
            # Words without a token are fillers, such as "a" and "of", that the tokenizer drops on purpose.
            dropped = set(of_word) == {-1} and unicodedata.category(word[0][0]) == "So"
            if self.unknown in of_word or dropped:
                yield word[0]

    def prompt(self, text: str, task: str = "text_to_image", images: Tensor | None = None) -> Tensor:
        """The conditional prompt: everything before the answer, int64 (P,).

        Args:
            images: input images as tokens, see ``sequence.image_tokens``, one after the other; they stand at the end of the user's turn.
        """
        return self._prompt(self.text(text, "question" if task == "understanding" else "prompt"), task, images)

    def unconditional(self, negative: str = "", task: str = "text_to_image", images: Tensor | None = None) -> Tensor:
        """The prompt without text, or with a negative prompt instead of ``<uncondition>``."""
        return self._prompt(self.text(negative, "negative prompt") if negative.strip() else [self.layout.uncondition], task, images)

    def decode(self, ids: list[int]) -> str:
        """The text of ids, special tokens left out."""
        with text_tokenizer.failures(f"{self.path}: the tokenizer fails on an answer"):
            return self.trusted.decode(ids, skip_special_tokens=True)

    def _prompt(self, text: list[int], task: str, images: Tensor | None) -> Tensor:
        layout = self.layout
        with text_tokenizer.failures(f"{self.path}: the tokenizer fails on the system prompt"):
            system = self.trusted.encode(system_prompt(task), add_special_tokens=False).ids
        head = torch.tensor([layout.system, *system, layout.end_system, layout.user, *text])
        middle = head[:0] if images is None else images.to("cpu")
        return torch.cat([head, middle, torch.tensor([layout.end_user])])


def system_prompt(task: str) -> str:
    """The system prompt of a template, a key of ``SYSTEM_PROMPTS`` or ``FALLBACK``.

    Raises:
        ValueError: there is none of that name.
    """
    if task == FALLBACK:
        return _FALLBACK_PROMPT
    if task not in SYSTEM_PROMPTS:
        raise ValueError(f"Unknown task {task!r}. Known are {', '.join(SYSTEM_PROMPTS)}.")
    return SYSTEM_PROMPTS[task]


def dense_text(kind: str) -> str:
    """What a request for a map says; of a kind not in ``MAPS``, it is for a "dense map", as published."""
    return f"Generate a {MAPS.get(kind, 'dense map')} according to the image."


def view_text(view: str) -> str:
    """What a request for a view says."""
    return f"Generate the {view} view based on the provided front view."


def _unknown(model: dict) -> int | None:
    """Id of the unknown token of a tokenizer's model, as tokenizer.json describes it."""
    vocabulary, token = model.get("vocab"), model.get("unk_token")
    return vocabulary.get(token) if isinstance(vocabulary, dict) else model.get("unk_id")  # a list in Unigram's
