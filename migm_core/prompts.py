"""Prompts: templates around a user's text, as token ids. The text is data: special tokens written in it stay text."""

import json
import re
import unicodedata
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

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

# The longest prompt that is accepted, in tokens. Attention is computed over it at every full step and in every branch.
MAX_PROMPT_TOKENS = 2048

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class PromptEncoder:
    """Text to token ids with a checkpoint's own tokenizer.

    Attributes:
        trusted: the tokenizer with its added tokens: for the templates.
        plain: the same without any added token, so that no text can produce one: for what users write.
        unknown: id of the token that stands for all unknown words; None for a tokenizer that has none, since it spells them.
    """

    trusted: Tokenizer
    plain: Tokenizer
    layout: TokenLayout
    unknown: int | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer, layout: TokenLayout) -> "PromptEncoder":
        definition = json.loads(tokenizer.to_str())
        definition["added_tokens"] = []
        definition["post_processor"] = None  # might add special tokens at the ends
        plain = Tokenizer.from_str(json.dumps(definition))
        return cls(tokenizer, plain, layout, _unknown(definition["model"]))

    def text(self, text: str) -> list[int]:
        """Ids of a user's text.

        Raises:
            ValueError: it is longer than MAX_PROMPT_TOKENS.
        """
        return self._encode(text).ids

    def _encode(self, text: str):
        encoding = self.plain.encode(text, add_special_tokens=False)
        if len(encoding.ids) > MAX_PROMPT_TOKENS:
            raise ValueError(
                f"The prompt has {len(encoding.ids)} tokens ({len(text.split())} words); the limit is {MAX_PROMPT_TOKENS} tokens. Shorten it."
            )
        return encoding

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that the model does not know, as written, each once. Emoji and the like count, punctuation does not.

        Raises:
            ValueError: as ``text``.
        """
        if self.unknown is None:
            return []
        encoding = self._encode(text)
        tokens = [-1] * len(text)  # of each character
        for token, (start, stop) in zip(encoding.ids, encoding.offsets):
            tokens[start:stop] = [token] * (stop - start)
        found = {}
        for word in _WORD.finditer(text):
            of_word = tokens[word.start() : word.end()]
            # Words without a token are fillers, such as "a" and "of", that the tokenizer drops on purpose.
            dropped = set(of_word) == {-1} and unicodedata.category(word[0][0]) == "So"
            if self.unknown in of_word or dropped:
                found[word[0]] = None
        return list(found)

    def prompt(self, text: str, task: str = "text_to_image", images: Tensor | None = None) -> Tensor:
        """The conditional prompt: everything before the answer, int64 (P,).

        Args:
            images: input images as tokens (see ``sampling.sequence.image_tokens``), one after the other; they stand before the end of
                the user's turn.
        """
        return self._prompt(self.text(text), task, images)

    def unconditional(self, negative: str = "", task: str = "text_to_image", images: Tensor | None = None) -> Tensor:
        """The prompt without text, or with a negative prompt in the place of ``<uncondition>``."""
        return self._prompt(self.text(negative) if negative.strip() else [self.layout.uncondition], task, images)

    def _prompt(self, text: list[int], task: str, images: Tensor | None) -> Tensor:
        if task not in SYSTEM_PROMPTS:
            raise ValueError(f"Unknown task {task!r}. Known are {', '.join(SYSTEM_PROMPTS)}.")
        layout = self.layout
        system = self.trusted.encode(SYSTEM_PROMPTS[task], add_special_tokens=False).ids
        head = torch.tensor([layout.system, *system, layout.end_system, layout.user, *text])
        middle = head[:0] if images is None else images.to("cpu")
        return torch.cat([head, middle, torch.tensor([layout.end_user])])


def _unknown(model: dict) -> int | None:
    """Id of the unknown token of a tokenizer's model, as tokenizer.json describes it."""
    vocabulary, token = model.get("vocab"), model.get("unk_token")
    return vocabulary.get(token) if isinstance(vocabulary, dict) else model.get("unk_id")  # a list in Unigram's
