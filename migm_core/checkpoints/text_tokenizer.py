"""tokenizer.json to tokenizers: what a definition may make of a text is looked at first, and whatever the library fails with becomes words."""

import base64
import binascii
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from .errors import CheckpointError
from .json_text import parse_object

MOST_GROWTH = 16  # letters that a text's letters may become, on average; a space that becomes a mark stays one
MOST_STEPS = 100  # of a normalizer or decoder
LONGEST_WORD = 10_000  # letters of a word that WordPiece takes apart; it tries each beginning


def read_definition(content: bytes, path: str | Path) -> dict[str, Any]:
    """A tokenizer.json that neither cuts texts nor fills them up, whatever the file says.

    Args:
        path: where it came from, for messages.

    Raises:
        CheckpointError: it is no JSON, or would make far more of a text, or the library would not live through it.
    """
    definition = parse_object(content, str(path)) | {"truncation": None, "padding": None}
    for part in ("normalizer", "decoder"):
        _check_growth(definition.get(part), f"{path}: {part}")
    model = definition.get("model")
    if not isinstance(model, dict):
        raise CheckpointError(f"{path} is not a fast tokenizer: model is {type(model).__name__}, expected a table. Download it again.")
    _check_merges(model, path)
    longest = model.get("max_input_chars_per_word", 0)
    if not isinstance(longest, int) or longest > LONGEST_WORD:
        raise CheckpointError(f"{path}: max_input_chars_per_word is {longest!r:.40}, expected a whole number up to {LONGEST_WORD}. Download it again.")
    return definition


def build(definition: dict[str, Any], path: str | Path) -> Tokenizer:
    """The library's tokenizer of a definition.

    Raises:
        CheckpointError: it is no fast tokenizer.
    """
    with failures(f"{path} is not a fast tokenizer"):
        return Tokenizer.from_str(json.dumps(definition))


@contextmanager
def failures(what: str) -> Iterator[None]:
    """Whatever the library fails with becomes a CheckpointError: bare exceptions, and panics, which no ``except Exception`` catches."""
    try:
        with _reports_of_panics() as panicked:
            try:
                yield
            except BaseException as error:
                panicked.append(type(error).__name__ == "PanicException")
                raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{what}: {' '.join(str(error).split())[:300].rstrip('.')}. Download it again.") from None


_stderr = threading.Lock()


@contextmanager
def _reports_of_panics() -> Iterator[list[bool]]:
    """Keep back what is printed to the process's error output, and print it at the end unless there was a panic: the library's report of one is
    many lines about its own source, before the sentence that tells what to do."""
    panicked: list[bool] = []
    with _stderr, tempfile.TemporaryFile() as kept:
        try:
            stderr = os.dup(2)
        except OSError:  # there is none
            yield panicked
            return
        os.dup2(kept.fileno(), 2)
        try:
            yield panicked
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            if not any(panicked) and (printed := kept.read()):
                os.write(2, printed)


def _check_growth(part: Any, name: str) -> None:
    """Bound what a normalizer or a decoder makes of a text."""
    growth, waiting, steps = 1.0, [part], 0
    while waiting:
        step = waiting.pop()
        if not isinstance(step, dict):
            continue
        steps += 1
        waiting += [each for key in ("normalizers", "decoders") if isinstance(step.get(key), list) for each in step[key]]
        content, pattern = step.get("content", ""), step.get("pattern")
        if isinstance(content, str) and isinstance(pattern, dict):
            replaced = pattern.get("String")
            growth *= max(1.0, len(content) / len(replaced) if isinstance(replaced, str) and replaced else 1.0 + len(content))
        prepended = step.get("prepend", "")
        if growth > MOST_GROWTH or steps > MOST_STEPS or isinstance(prepended, str) and len(prepended) > MOST_GROWTH:
            raise CheckpointError(f"{name} makes more than {MOST_GROWTH} letters of one, or takes more than {MOST_STEPS} steps. Use the tokenizer that belongs to the model.")
        if step.get("type") == "Precompiled" and not _is_charsmap(step.get("precompiled_charsmap")):
            raise CheckpointError(f"{name}: precompiled_charsmap is damaged. Download the file again.")


def _is_charsmap(text: Any) -> bool:
    """Whether SentencePiece's table of letters has the length that it says."""
    try:
        content = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        return text is None
    size = int.from_bytes(content[:4], "little")
    return len(content) > 4 and size % 4 == 0 and 0 < size <= len(content) - 4


def _check_merges(model: dict[str, Any], path: str | Path) -> None:
    """Every merge of a BPE is of two tokens, and makes one."""
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        return
    prefix = model.get("continuing_subword_prefix")
    cut = len(prefix) if isinstance(prefix, str) else 0
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(each, str) for each in pair):
            raise CheckpointError(f"{path}: the merge {merge!r:.80} is no pair of tokens. Download it again.")
        if missing := [each for each in (*pair, pair[0] + pair[1][cut:]) if each not in vocabulary]:
            raise CheckpointError(f"{path}: the merge {merge!r:.80} needs the token {missing[0]!r:.80}, which the vocabulary lacks. Download it again.")
