"""A ComfyUI client of the standard library only: the HTTP API, and the websocket that says what happens."""

import base64
import io
import json
import os
import socket
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

PREVIEW = 1  # binary message: a picture of the node that is running


@dataclass
class Outcome:
    """What a prompt did.

    Attributes:
        messages: (type, data) of its text messages in order.
        previews: pictures sent meanwhile.
        outputs: node id to its outputs, from the history.
    """

    messages: list[tuple[str, dict]] = field(default_factory=list)
    previews: list[Image.Image] = field(default_factory=list)
    outputs: dict = field(default_factory=dict)

    def of(self, kind: str) -> list[dict]:
        return [data for type_, data in self.messages if type_ == kind]

    @property
    def executed_nodes(self) -> list[str]:
        return [data["node"] for data in self.of("executing") if data["node"]]


class Refused(Exception):
    """The host did not take a prompt; ``answer`` is its reply."""

    def __init__(self, answer: dict):
        super().__init__(json.dumps(answer)[:2000])
        self.answer = answer


class Client:
    def __init__(self, port: int):
        self.url, self.id = f"http://127.0.0.1:{port}", uuid.uuid4().hex
        self.socket = WebSocket(port, f"/ws?clientId={self.id}")

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
            raise Refused(json.loads(error.read())) from None

    def queue(self, graph: dict) -> str:
        return self.post("/prompt", {"prompt": graph, "client_id": self.id})["prompt_id"]

    def wait(self, prompt: str, on_message=None, seconds: float = 300) -> Outcome:
        """Follow a prompt to its end; ``on_message`` sees each text message."""
        outcome, deadline = Outcome(), time.monotonic() + seconds
        while time.monotonic() < deadline:
            message = self.socket.receive(deadline - time.monotonic())
            if isinstance(message, bytes):
                kind, _ = struct.unpack(">II", message[:8])
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


class WebSocket:
    """Enough of RFC 6455 to listen to a server on this machine."""

    def __init__(self, port: int, path: str):
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        self.connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.stream = self.connection.makefile("rb")
        status = self.stream.readline()
        if b" 101 " not in status:
            raise ConnectionError(f"no websocket: {status!r}")
        while self.stream.readline().strip():
            pass

    def receive(self, seconds: float) -> str | bytes:
        """The next text or binary message."""
        self.connection.settimeout(max(seconds, 0.1))
        parts, kind = [], None
        while True:
            first, second = self.stream.read(2)
            size = second & 127
            if size == 126:
                (size,) = struct.unpack(">H", self.stream.read(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self.stream.read(8))
            payload, code = self.stream.read(size), first & 15
            if code == 8:
                raise ConnectionError("the server closed the websocket")
            if code == 9:  # ping
                self.connection.sendall(bytes([0x8A, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
            elif code in (0, 1, 2):
                parts.append(payload)
                kind = kind or code
                if first & 128:
                    whole = b"".join(parts)
                    return whole.decode() if kind == 1 else whole

    def close(self) -> None:
        self.connection.close()
