"""A real `mlflow server` that tests kill, stop and start again, and a line to it that loses answers."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

PATIENCE_S = 120


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """`mlflow server` on a sqlite file, on a port of its own, with artifacts beside the file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [str(Path(sys.executable).parent / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        places = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination", str(self.folder / "artifacts")]
        environment = {
            **os.environ,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [*command, *places], env=environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            assert self.process.poll() is None, (self.folder / "server.log").read_text()[-3000:]
            time.sleep(0.2)
        raise AssertionError("the server did not start")

    def _all(self) -> list[psutil.Process]:
        assert self.process is not None
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def send(self, number: signal.Signals) -> None:
        for process in self._all():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to all of it, waited for."""
        if self.process is None or self.process.poll() is not None:
            return
        processes = self._all()
        self.send(signal.SIGKILL)
        psutil.wait_procs(processes, timeout=10)
        self.process.wait()


class Line:
    """A port that passes connections on to a server, or does not, or passes a request and loses its answer.

    Attributes:
        cut: whether connections are closed at once.
        lose: parts of requests (`runs/create`) whose next answer is lost, each once; `lost` counts them.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.cut = False
        self.lose: list[bytes] = []
        self.lost = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One connection; requests on it follow each other, so an answer belongs to the request before it."""
        with client, contextlib.suppress(OSError):
            if self.cut:
                return
            with socket.create_connection(("127.0.0.1", self._server.port)) as server:
                state = {"lose": False}
                threading.Thread(target=self._requests, args=(client, server, state), daemon=True).start()
                while data := server.recv(1 << 16):
                    if state["lose"]:
                        self.lost += 1
                    if state["lose"] or self.cut:
                        client.shutdown(socket.SHUT_RDWR)  # at once, though the other thread still listens to it
                        return
                    client.sendall(data)

    def _requests(self, client: socket.socket, server: socket.socket, state: dict[str, bool]) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                for part in self.lose:
                    if part in data:
                        self.lose.remove(part)
                        state["lose"] = True
                        break
                if self.cut:
                    break
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
