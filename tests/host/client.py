"""A ComfyUI client: the HTTP API, and the websocket that says what happens."""

import io
import json
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field

import numpy as np
import websocket
from PIL import Image

PREVIEW = 1  # binary message: a picture of the node that is running
TEXT = 3  # binary message: words that a node shows


@dataclass
class Outcome:
    """What a prompt did.

    Attributes:
        messages: (type, data) of its text messages in order.
        previews: pictures sent meanwhile.
        texts: words sent meanwhile, with the node that shows them.
        outputs: node id to its outputs, from the history.
    """

    messages: list[tuple[str, dict]] = field(default_factory=list)
    previews: list[Image.Image] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    outputs: dict = field(default_factory=dict)

    def of(self, kind: str) -> list[dict]:
        return [data for type_, data in self.messages if type_ == kind]

    @property
    def executed_nodes(self) -> list[str]:
        return [data["node"] for data in self.of("executing") if data["node"]]


class Refused(Exception):
    """The host did not do what was asked.

    Attributes:
        status: of the HTTP answer.
        answer: its JSON; {} where the answer is plain text, which is in the message.
    """

    def __init__(self, path: str, status: int, answer: bytes):
        text = answer.decode(errors="replace")
        super().__init__(f"{path}: {status} {text[:2000]}")
        self.status = status
        try:
            self.answer = json.loads(text)
        except ValueError:
            self.answer = {}


class Client:
    def __init__(self, port: int):
        self.url, self.id = f"http://127.0.0.1:{port}", uuid.uuid4().hex
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{port}/ws?clientId={self.id}", timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def get(self, path: str) -> dict:
        return json.loads(self._open(path))

    def post(self, path: str, body: dict | None = None) -> dict:
        return json.loads(self._open(path, json.dumps(body or {}).encode()) or b"{}")

    def _open(self, path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            return urllib.request.urlopen(request, timeout=60).read()
        except urllib.error.HTTPError as error:
            raise Refused(path, error.code, error.read()) from None

    def queue(self, graph: dict) -> str:
        return self.post("/prompt", {"prompt": graph, "client_id": self.id})["prompt_id"]

    def wait(self, prompt: str, on_message=None, seconds: float = 300) -> Outcome:
        """Follow a prompt to its end; ``on_message`` sees each text message."""
        outcome, deadline = Outcome(), time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.socket.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                message = self.socket.recv()
            except websocket.WebSocketTimeoutException:
                break
            if isinstance(message, bytes):
                kind, size = struct.unpack(">II", message[:8])
                if kind == TEXT:  # the node's id and its length stand before the words
                    outcome.texts.append((message[8 : 8 + size].decode(), message[8 + size :].decode()))
                if kind == PREVIEW:
                    outcome.previews.append(Image.open(io.BytesIO(message[8:])))
                continue
            kind, data = (parsed := json.loads(message))["type"], parsed.get("data", {})
            if data.get("prompt_id") not in (None, prompt):
                continue
            outcome.messages.append((kind, data))
            if on_message:
                on_message(kind, data)
            if kind in ("execution_success", "execution_error", "execution_interrupted"):
                outcome.outputs = self._outputs(prompt)
                return outcome
        raise TimeoutError(f"prompt {prompt} did not end in {seconds} s; last messages: {outcome.messages[-3:]}")

    def run(self, graph: dict, **options) -> Outcome:
        return self.wait(self.queue(graph), **options)

    def _outputs(self, prompt: str) -> dict:
        for _ in range(100):  # the history is written after the message
            if prompt in (history := self.get(f"/history/{prompt}")):
                return history[prompt]["outputs"]
            time.sleep(0.05)
        return {}

    def images(self, outcome: Outcome, node: str) -> list[np.ndarray]:
        """What an image node showed, uint8 (h, w, 3)."""
        found = []
        for image in outcome.outputs[node]["images"]:
            query = urllib.parse.urlencode({"filename": image["filename"], "subfolder": image["subfolder"], "type": image["type"]})
            found.append(np.asarray(Image.open(io.BytesIO(self._open(f"/view?{query}"))).convert("RGB")))
        return found
