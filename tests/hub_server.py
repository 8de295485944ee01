"""A hub of one's own on this machine: what huggingface_hub asks of huggingface.co, for small repositories."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class HubServer:
    """Serves repositories and remembers what was asked.

    Attributes:
        repositories: name to revision to path to content. Revisions are "main" and others; a commit's name follows from its files.
        gated, private: names of repositories that answer 403 and 401.
        breaks: path to the number of bytes after which its next transfer breaks off.
        asked: (method, path, range) of every request.
    """

    def __init__(self):
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.breaks: dict[str, int] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fetched(self) -> list[str]:
        """Files whose content was asked for."""
        return [path.split("/resolve/")[1].partition("/")[2] for method, path, _ in self.asked if method == "GET" and "/resolve/" in path]

    def files(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision and its files."""
        for known, files in self.repositories[name].items():
            commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
            if revision in (known, commit):
                return commit, files
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers["Range"]))
        api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models/").strip("/").split("/")
        name, verb, revision, file = "/".join(parts[:2]), parts[2] if parts[2:] else "revision", parts[3] if parts[3:] else "main", "/".join(parts[4:])
        if name not in self.hub.repositories:
            return self._refuse(404, "RepoNotFound")
        if name in self.hub.private:
            return self._refuse(401, None)
        if name in self.hub.gated:
            return self._refuse(403, "GatedRepo")
        if not (found := self.hub.files(name, revision)):
            return self._refuse(404, "RevisionNotFound")
        commit, files = found
        if api and verb == "revision":
            siblings = [{"rfilename": path, "size": len(content), "blobId": _blob(content)} for path, content in files.items()]
            return self._json({"id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})
        if api:
            return self._json([{"type": "file", "path": path, "size": len(content), "oid": _blob(content)} for path, content in files.items()])
        if file not in files:
            return self._refuse(404, "EntryNotFound")
        self._content(file, commit, files[file])

    def _content(self, file: str, commit: str, content: bytes):
        start = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0]) if self.headers["Range"] else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self._headers(len(content) - start, {"ETag": f'"{_blob(content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"})
        if self.command == "GET":
            stop = self.hub.breaks.pop(file, len(content))
            self.wfile.write(content[start:stop])
            self.close_connection = self.close_connection or stop < len(content)

    def _refuse(self, status: int, code: str | None):
        self.send_response(status)
        self._headers(0, {"X-Error-Code": code} if code else {})

    def _json(self, value: object):
        content = json.dumps(value).encode()
        self.send_response(200)
        self._headers(len(content), {"Content-Type": "application/json"})
        if self.command == "GET":
            self.wfile.write(content)

    def _headers(self, length: int, others: dict[str, str]):
        for name, value in {"Content-Length": str(length), **others}.items():
            self.send_header(name, value)
        self.end_headers()


def _blob(content: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
