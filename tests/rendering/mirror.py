"""A small web server that can be told to misbehave, and an Objaverse mirror made of generated objects."""

import gzip
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, declared: int | None = None, **headers: str) -> None:
    """One answer; `declared` overrides the Content-Length."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if declared is None else declared))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


class Mirror:
    """Serves `files` by path; `script[path]` is a list of answers given first, one per request."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.script: dict[str, list[Answer]] = {}
        self.requests: Counter[str] = Counter()
        self.released = threading.Event()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                mirror.requests[path] += 1
                body = mirror.files.get(path)
                if mirror.script.get(path):
                    mirror.script[path].pop(0)(self, body or b"")
                elif body is None:
                    send(self, b"no such file", 404)
                else:
                    send(self, body)

            def log_message(self, *_: object) -> None:
                """Tests print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stall(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Half of the body, then silence until the test ends."""
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2])
        handler.wfile.flush()
        self.released.wait(30)

    @contextmanager
    def serving(self) -> Iterator["Mirror"]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def packed(value: object) -> bytes:
    return gzip.compress(json.dumps(value).encode())


def objaverse_files(glbs: dict[str, bytes], annotations: dict[str, dict], lvis: dict[str, list[str]] | None = None) -> dict[str, bytes]:
    """Files of a mirror in Objaverse 1.0's layout, all objects in shard 000-007."""
    files = {f"glbs/000-007/{uid}.glb": data for uid, data in glbs.items()}
    files["object-paths.json.gz"] = packed({uid: f"glbs/000-007/{uid}.glb" for uid in glbs})
    files["metadata/000-007.json.gz"] = packed({uid: {"uid": uid} | annotations.get(uid, {}) for uid in glbs})
    files["lvis-annotations.json.gz"] = packed(lvis or {})
    return files


def write_tree(files: dict[str, bytes], folder: Path) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
