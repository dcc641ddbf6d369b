"""A headless Chromium for tests, driven over its DevTools protocol with aiohttp (which Ray brings): real clicks, real pixels.

Nothing but the installed browser is needed, no driver and no test framework of its own.
"""

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--mute-audio",
    # WebGL without a graphics card.
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--remote-debugging-port=0",
)
START_S = 60.0
ANSWER_S = 60.0


def installed() -> str | None:
    """Path of a Chromium: `$MVFORGE_BROWSER`, or the first of the usual names on the PATH; None when there is none."""
    return os.environ.get("MVFORGE_BROWSER") or next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One tab. Use as a context manager; the browser process and its profile end with it.

    `problems` collects what the console calls an error or a warning, and uncaught exceptions; `requests` every address that the
    page asked for, data and blob addresses left out; `blocked` those of them that its content policy stopped.
    """

    def __init__(self, program: str) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.blocked: list[str] = []
        self._asked: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._profile = tempfile.mkdtemp(prefix="mvforge-browser-")
        self._process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._numbers = itertools.count(1)

    def __enter__(self) -> "Browser":
        try:
            self._loop.run_until_complete(self._connect(self._port()))
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        if hasattr(self, "_session"):
            self._loop.run_until_complete(self._session.close())
        self._loop.close()
        # The whole group: Chromium is a family of processes.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def _port(self) -> int:
        """The port that Chromium chose; it writes it into its profile."""
        told, until = Path(self._profile) / "DevToolsActivePort", time.monotonic() + START_S
        while time.monotonic() < until:
            if told.exists() and (lines := told.read_text().split()):
                return int(lines[0])
            if self._process.poll() is not None:
                raise RuntimeError(f"the browser ended with {self._process.returncode}")
            time.sleep(0.05)
        raise TimeoutError("the browser did not open its debugging port")

    async def _connect(self, port: int) -> None:
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            tab = next(target for target in await answer.json() if target["type"] == "page")
        self._socket = await self._session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One DevTools command and its answer; events that arrive meanwhile are noted. Raises RuntimeError for an error."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), ANSWER_S))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive()).data)
            if message.get("id") != number:
                self._note(message)
            elif "error" in message:
                raise RuntimeError(f"{method}: {message['error']}")
            else:
                return message["result"]

    def _note(self, event: dict[str, Any]) -> None:
        about = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(about["exceptionDetails"])[:500])
        elif event["method"] == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(one.get("value", one.get("description"))) for one in about["args"])[:500])
        elif event["method"] == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.problems.append(about["entry"]["text"][:500])
        elif event["method"] == "Network.requestWillBeSent" and not about["request"]["url"].startswith(("data:", "blob:")):
            self.requests.append(about["request"]["url"])
            self._asked[about["requestId"]] = about["request"]["url"]
        elif event["method"] == "Network.loadingFailed" and about.get("blockedReason") == "csp":
            self.blocked.append(self._asked[about["requestId"]])

    def size(self, width: int, height: int, phone: bool = False, scale: float = 1.0) -> None:
        """The window in CSS pixels; a phone also reports touch and honours the page's viewport."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def open(self, address: str) -> None:
        """Go to `address` and wait until everything in it is loaded."""
        self.call("Page.navigate", url=address)
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(address.partition('#')[0])})")

    def value(self, script: str) -> Any:
        """What a JavaScript expression gives (promises are awaited). Raises RuntimeError with its exception."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:800])
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 30.0) -> None:
        """Until the expression is true. Raises TimeoutError."""
        until = time.monotonic() + seconds
        while not self.value(script):
            if time.monotonic() > until:
                raise TimeoutError(f"never true: {script}; {self.problems}")
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """A real press of the mouse in the middle of the first element that matches."""
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def drag(self, selector: str, across: float, down: float) -> None:
        """Press in the middle of the element, move by so many CSS pixels, let go."""
        x, y = self.middle(selector)
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", buttons=1, clickCount=1)
        for share in (0.5, 1.0):
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + across * share, y=y + down * share, button="left", buttons=1)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x + across, y=y + down, button="left", clickCount=1)

    def middle(self, selector: str) -> tuple[float, float]:
        """Where the element's middle is in the window, after it was scrolled into view."""
        script = """(selector) => {
            const element = document.querySelector(selector);
            element.scrollIntoView({ block: "center", behavior: "instant" });
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }"""
        box = self.value(f"({script})({json.dumps(selector)})")
        return box[0], box[1]

    def screenshot(self, whole_page: bool = False) -> bytes:
        """PNG of the window, or of the whole page."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole_page)["data"])
