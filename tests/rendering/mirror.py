"""A small web server that can be told to misbehave, and an Objaverse mirror made of generated objects."""

import gzip
import hashlib
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# The server of these tests is this machine, whatever proxy lies before the others.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(
    filter(None, ("127.0.0.1", os.environ.get("no_proxy", os.environ.get("NO_PROXY"))))
)

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, declared: int | None = None, **headers: str) -> None:
    """One answer; `declared` overrides the Content-Length, and the connection ends where they differ."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if declared is None else declared))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()
    handler.close_connection = handler.close_connection or declared not in (None, len(body))


def etag(body: bytes) -> str:
    return f'"{hashlib.sha1(body).hexdigest()}"'


def whole(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """The file, or the part of it that was asked for, as RFC 9110 wants it."""
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start = int(asked[1]) if asked and handler.headers.get("If-Range", etag(body)) == etag(body) else 0
    if start >= len(body) > 0:
        send(handler, b"", 416, Content_Range=f"bytes */{len(body)}")
    elif start:
        send(handler, body[start:], 206, Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}", ETag=etag(body))
    else:
        send(handler, body, ETag=etag(body))


def status(code: int, **headers: str) -> Answer:
    return lambda handler, _: send(handler, b"no", code, **headers)


def cut(share: float = 0.5, with_etag: bool = True) -> Answer:
    """The beginning of the body under the length of the whole, then the end of the connection."""

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        headers = {"ETag": etag(body)} if with_etag else {}
        send(handler, body[: int(len(body) * share)], declared=len(body), **headers)

    return answer


def _chunks(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for start in range(0, len(body), 5000):
        chunk = body[start : start + 5000]
        handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")


def chunked(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """The whole file without a length."""
    _chunks(handler, body)
    handler.wfile.write(b"0\r\n\r\n")


def cut_chunked(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """No length at all: chunks, of which the last ones never come."""
    _chunks(handler, body[: len(body) // 2])
    handler.close_connection = True


def instead(other: bytes) -> Answer:
    """Other bytes with every sign of being the right ones."""
    return lambda handler, body: send(handler, other, ETag=etag(body))


def ignoring_range(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    send(handler, body, ETag=etag(body))


def wrong_range(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """A part, but not the one that was asked for."""
    send(handler, body[7:], 206, Content_Range=f"bytes 7-{len(body) - 1}/{len(body)}", ETag=etag(body))


def hang_up(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    handler.close_connection = True
    handler.connection.close()


class Mirror:
    """Serves `files` by path; `script[path]` is a list of answers given first, one per request.

    `requests` counts requests by path and `log` holds (path, asked-for range) of each, in order.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.script: dict[str, list[Answer]] = {}
        self.requests: Counter[str] = Counter()
        self.log: list[tuple[str, str]] = []
        self.released = threading.Event()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20

            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                mirror.requests[path] += 1
                mirror.log.append((path, self.headers.get("Range", "")))
                body = mirror.files.get(path)
                if mirror.script.get(path):
                    mirror.script[path].pop(0)(self, body or b"")
                elif body is None:
                    send(self, b"no such file", 404)
                else:
                    whole(self, body)

            def log_message(self, *_: object) -> None:
                """Tests print nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                """Clients of these tests are killed and time out on purpose."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stall(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Half of the body, then silence until the test ends."""
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("ETag", etag(body))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2])
        handler.wfile.flush()
        self.released.wait(30)
        handler.close_connection = True

    def silence(self, handler: BaseHTTPRequestHandler, _: bytes) -> None:
        """Not even a status line until the test ends."""
        self.released.wait(30)
        handler.close_connection = True

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
