"""Text as its user sees it while it is written: the host's progress bar, the words on the node, and the stop button."""

from __future__ import annotations

import time
from collections.abc import Callable

import comfy.model_management
import comfy.utils
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ...migm_core.families.lumina_dimoo.understanding import TextReport

TELL_EVERY = 0.1  # seconds between two texts of a run


class TextProgress:
    """The host's side of one or several answers.

    Args:
        passes: of all answers together.
    """

    def __init__(self, passes: int):
        context = get_executing_context()
        self.node = context.node_id if context else None
        self.passes, self.bar = passes, comfy.utils.ProgressBar(passes)
        self.told, self.when = "", 0.0

    def of(self, first: int, before: str) -> Callable[[TextReport], None]:
        """The callback of an answer.

        Args:
            first: passes before it.
            before: what stands on the node already.
        """
        return lambda report: self.step(first + report.index + 1, before + report.text)

    def step(self, done: int, text: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(done, self.passes)
        if time.perf_counter() - self.when >= TELL_EVERY:
            self._tell(text)

    def end(self, text: str) -> None:
        """All is written: the bar is full, though an answer may have ended early."""
        self.bar.update_absolute(self.passes, self.passes)
        self._tell(text)

    def _tell(self, text: str) -> None:
        server = PromptServer.instance
        if text == self.told or self.node is None or server.client_id is None:  # without a page that asked, the host would tell all
            return
        server.send_progress_text(text, self.node, server.client_id)
        self.told, self.when = text, time.perf_counter()
