"""The text tokenizer of the synthetic domain: a word a token, in the fast-tokenizer format that every checkpoint carries."""

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from ...families.lumina_dimoo.config import SPECIAL_TOKENS, TokenLayout
from ...families.lumina_dimoo.prompts import SYSTEM_PROMPTS
from .scenes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES

WORDS = ["[unknown]", *SIZES, *COLOURS, *SHAPES, *BACKGROUNDS, *(relation.split()[0] for relation in RELATIONS), "both"]

# Words that say nothing here: dropped, since each would cost every pass a position, and prompts may phrase freely.
_DROPPED = ("a", "an", "the", "of", "on", "to", "is", "are", "and", "with", "background", "in", "image", "picture")

TEXT_IDS = 64  # image codes start here; some ids before stay free


def demo_layout(codebook_size: int) -> TokenLayout:
    """Special tokens after the words and the system prompt, image codes from TEXT_IDS."""
    return TokenLayout.of_small_model(len(WORDS) + 1, TEXT_IDS, codebook_size)


def demo_text_tokenizer() -> Tokenizer:
    """Word-level, lower case, unknown words mapped to one token; the system prompt is a single token of its own."""
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[^\w\s]"), " "),
            normalizers.Replace(Regex(rf"\b({'|'.join(_DROPPED)})\b"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_tokens([AddedToken(SYSTEM_PROMPTS["text_to_image"], normalized=False)])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    return tokenizer
