"""A browser as people use it: Chromium through chromedriver, in the W3C WebDriver protocol, with the standard library only."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for a reference to one
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
DRIVERS = ("chromedriver", "chromium.chromedriver")
START_SECONDS = 120
WAIT_SECONDS = 90
TRY_SECONDS = 8  # for the effect of a gesture
TRIES = 5
LOOK_SECONDS = 0.2
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "Control": "\ue009", "Delete": "\ue017"}

# The first visible element of a selector, with a text in it, and if it is to be the innermost, with no such in it.
FIND = """const [css, text, innermost] = arguments;
    const fits = (e) => e.getClientRects().length && (text === null || e.textContent.includes(text));
    return [...document.querySelectorAll(css)].find((e) => fits(e) && !(innermost && [...e.children].some(fits))) ?? null"""

T = TypeVar("T")


def missing() -> str | None:
    """What is not there of what a browser needs; None if all is."""
    lacking = [names[0] for names in (BROWSERS, DRIVERS) if not _program(names)]
    return f"{' and '.join(lacking)} not found: apt-get install chromium chromium-driver" if lacking else None


def _program(names: tuple[str, ...]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


class BrowserError(Exception):
    """The driver's answer where something did not work."""


class Browser:
    """A window of Chromium without a screen. A context manager: at its end all its processes are gone.

    Args:
        width, height: of the window.
        profile: an empty folder.
    """

    def __init__(self, profile: Path, width: int = 1280, height: int = 800):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = profile.parent / f"{profile.name}.log"
        with self.log.open("w") as out:
            self.process = subprocess.Popen([_program(DRIVERS), f"--port={port}"], stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            self._wait_for_driver()
            arguments = ["--headless=new", "--disable-gpu", "--hide-scrollbars", "--mute-audio", "--no-first-run", "--disable-background-networking"]
            arguments += [f"--window-size={width},{height}", f"--user-data-dir={profile}", "--disable-dev-shm-usage", "--lang=en"]
            if os.geteuid() == 0:
                arguments.append("--no-sandbox")
            options = {"binary": _program(BROWSERS), "args": arguments}
            asked = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}, "unhandledPromptBehavior": "accept"}
            self.session = self._post("/session", {"capabilities": {"alwaysMatch": asked}})["sessionId"]
            self._command("/timeouts", {"script": WAIT_SECONDS * 1000, "pageLoad": WAIT_SECONDS * 1000})
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        try:
            if hasattr(self, "session"):
                self._send("DELETE", f"/session/{self.session}")
        except (OSError, BrowserError):
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    # Looking

    def open(self, url: str) -> None:
        self._command("/url", {"url": url})

    def script(self, body: str, *arguments):
        """What a function with this body returns, in the page; ``arguments`` are its arguments, and promises are waited for."""
        return self._command("/execute/sync", {"script": body, "args": list(arguments)})

    def wait(self, body: str, *arguments, seconds: float = WAIT_SECONDS, what: str = ""):
        """Wait until a function with this body returns something true; return that."""
        deadline = time.monotonic() + seconds
        while True:
            if found := self.script(body, *arguments):
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"not in {seconds:g} s: {what or body}")
            time.sleep(LOOK_SECONDS)

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._get("/screenshot")))

    def console(self) -> list[dict]:
        """Messages since the last call: level, source and message."""
        return self._command("/se/log", {"type": "browser"})

    # Doing

    def click(self, css: str, text: str | None = None, innermost: bool = False) -> None:
        """Click the first visible element of a selector, with this text in it if one is given; waited for. ``innermost``: and no such in it."""
        self.click_at(*self.point(FIND, css, text, innermost, what=f"{css} with {text!r}"))

    def point(self, body: str, *arguments, seconds: float = WAIT_SECONDS, what: str = "") -> tuple[float, float]:
        """The middle of the element that a function with this body returns, once it rests there and nothing lies over it."""
        look = f"""const element = (function () {{ {body} }}).apply(null, arguments);
            if (!element) return {{ over: 'it is not there' }};
            element.scrollIntoView({{ block: 'nearest' }});
            const box = element.getBoundingClientRect(), at = [box.x + box.width / 2, box.y + box.height / 2];
            const hit = document.elementFromPoint(...at);
            return {{ at, free: element.contains(hit) || hit?.contains(element), over: hit?.outerHTML }}"""
        return self.settled(look, *arguments, seconds=seconds, what=what or body)

    def settled(self, look: str, *arguments, seconds: float = WAIT_SECONDS, what: str = "") -> tuple[float, float]:
        """A place, once it is free and the same at two looks.

        Args:
            look: the body of a function that returns the place as ``at``, whether it is ``free``, and what is ``over`` it.
        """
        deadline, before = time.monotonic() + seconds, None
        while True:
            seen = self.script(look, *arguments)
            if seen.get("free") and seen["at"] == before:
                return tuple(before)
            if time.monotonic() > deadline:
                raise TimeoutError(f"not free and at rest in {seconds:g} s: {what}, at {seen.get('at')}; over it: {(seen.get('over') or 'nothing')[:200]}")
            before = seen.get("at")
            time.sleep(LOOK_SECONDS)

    def do_until(self, do: Callable[[], None], seen: Callable[[float], T], what: str, tries: int = TRIES, seconds: float = TRY_SECONDS) -> T:
        """Do something by hand until its effect is seen; return that. A busy page loses a gesture: then people do it again.

        Args:
            do: the gesture. It looks anew where things are, and may raise TimeoutError.
            seen: waits as many seconds as it is told for the effect, which a second gesture must not undo; raises TimeoutError.
        """
        for _ in range(tries):
            lost = None
            try:
                do()
            except TimeoutError as error:
                lost = error
            try:
                return seen(seconds)
            except TimeoutError as error:
                lost = lost or error
        raise TimeoutError(f"not by doing it {tries} times: {what}; at last: {lost}") from lost

    def click_at(self, x: float, y: float, count: int = 1) -> None:
        press = [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self._pointer([_move(x, y), *press * count])

    def drag(self, start: tuple[float, float], end: tuple[float, float], stops: int = 6) -> None:
        """Press at the start, move in some stops to the end, let go there."""
        way = [(start[0] + (end[0] - start[0]) * i / stops, start[1] + (end[1] - start[1]) * i / stops) for i in range(1, stops + 1)]
        moves = [_move(x, y, 40) for x, y in way]
        pause = {"type": "pause", "duration": 100}
        self._pointer([_move(*start), pause, {"type": "pointerDown", "button": 0}, pause, *moves, pause, {"type": "pointerUp", "button": 0}])

    def type(self, text: str, *held: str) -> None:
        """Type a text, or one key of KEYS, into what has the focus; with keys held down."""
        typed = [KEYS[text]] if text in KEYS else list(text)
        strokes = [{"type": kind, "value": key} for key in typed for kind in ("keyDown", "keyUp")]
        down = [{"type": "keyDown", "value": KEYS[key]} for key in held]
        up = [{"type": "keyUp", "value": KEYS[key]} for key in held]
        self._command("/actions", {"actions": [{"type": "key", "id": "keys", "actions": [*down, *strokes, *up]}]})

    def _pointer(self, actions: list[dict]) -> None:
        self._command("/actions", {"actions": [{"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}]})

    # The protocol

    def _wait_for_driver(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if self._send("GET", "/status")["ready"]:
                    return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError(f"chromedriver did not start:\n{self.log.read_text()[-2000:]}")

    def _command(self, path: str, body: dict):
        return self._post(f"/session/{self.session}{path}", body)

    def _get(self, path: str):
        return self._send("GET", f"/session/{self.session}{path}")

    def _post(self, path: str, body: dict):
        return self._send("POST", path, json.dumps(body).encode())

    def _send(self, method: str, path: str, data: bytes | None = None):
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            return json.loads(urllib.request.urlopen(request, timeout=START_SECONDS + WAIT_SECONDS).read())["value"]
        except urllib.error.HTTPError as error:
            value = json.loads(error.read())["value"]
            raise BrowserError(f"{value['error']}: {value['message'].splitlines()[0]}") from None


def _move(x: float, y: float, duration: int = 0) -> dict:
    return {"type": "pointerMove", "x": round(x), "y": round(y), "duration": duration, "origin": "viewport"}
