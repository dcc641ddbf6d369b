"""One attempt to bring one file over http, https or from file:// into a part file, continuing what is there."""

import email.utils
import http.cookiejar
import re
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter

from rendering.pace import Pace
from rendering.part_file import PartFile
from rendering.sources.base import FetchError

_BLOCK = 1 << 16
_CONNECTIONS = 64
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True)
class DownloadPolicy:
    """How long to wait and how often to try.

    Attributes:
        attempts: rounds over the addresses of a file.
        connect_s: longest wait for a connection.
        timeout_s: longest wait for the answer's first or next bytes.
        limit_s: longest duration of one attempt.
        backoff_s: pause after the first round; doubles with each. A random part of up to half of every pause is added.
        backoff_limit_s: longest pause, also where a server asks for a longer one.
        max_bytes: larger files are refused.
    """

    attempts: int = 4
    timeout_s: float = 30.0
    limit_s: float = 1800.0
    backoff_s: float = 1.0
    backoff_limit_s: float = 120.0
    connect_s: float = 10.0
    max_bytes: int = 4 << 30


DEFAULT_POLICY = DownloadPolicy()


class Passing(FetchError):
    """Trouble that may pass; `retry_after_s` is the pause that the server asked for."""

    retry_after_s: float | None = None


def _new_session() -> requests.Session:
    """Keeps connections; proxies and certificates come from the environment, as `requests` documents it."""
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS, max_retries=0))
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update({"Accept-Encoding": "identity", "User-Agent": "mvforge"})
    return session


_SESSION = _new_session()


def receive(url: str, part: PartFile, policy: DownloadPolicy, pace: Pace) -> None:
    """Complete the part file. Raises `Passing` for trouble worth another attempt, another FetchError for lasting trouble."""
    deadline = time.monotonic() + policy.limit_s
    if urllib.parse.urlsplit(url).scheme == "file":
        _from_disk(url, part, policy, pace, deadline)
        return
    headers = {"Range": f"bytes={part.size}-", "If-Range": part.validator} if part.size and part.validator else {}
    try:
        with _SESSION.get(url, headers=headers, stream=True, timeout=(policy.connect_s, policy.timeout_s)) as response:
            _begin(response, part)
            _copy(response.raw.read1, part, policy, pace, deadline)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _from_exception(error) from error
    if part.total is not None and part.size != part.total:
        raise Passing("truncated", f"{part.size} of {part.total} bytes arrived")


def _from_disk(url: str, part: PartFile, policy: DownloadPolicy, pace: Pace, deadline: float) -> None:
    path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    try:
        with open(path, "rb") as stream:
            part.restart()
            _copy(stream.read, part, policy, pace, deadline)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise FetchError("not_found", str(error)) from error
    except PermissionError as error:
        raise FetchError("unreadable", str(error)) from error
    except OSError as error:
        raise _from_exception(error) from error


def _begin(response: requests.Response, part: PartFile) -> None:
    """Bring the part file to where the answer's body starts: its end, or zero when the server sends the whole file."""
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        part.restart(_validator(response), int(length) if length.isdigit() else None)
        return
    if response.status_code not in (206, 416):
        raise _from_status(response)
    answer = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    fits = (
        response.status_code == 206 and answer is not None and int(answer[1]) == part.size and _validator(response) in ("", part.validator)
    )
    if not fits or (part.total is not None and answer is not None and answer[3] not in ("*", str(part.total))):
        part.restart()
        raise Passing("bad_range", f"HTTP {response.status_code}, the rest that was asked for does not fit what is here")


def _validator(response: requests.Response) -> str:
    """What names this version of the file for If-Range, which takes strong validators only (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag")
    if etag is None:
        return response.headers.get("Last-Modified", "")
    return etag if etag.startswith('"') else ""


def _copy(read: Any, part: PartFile, policy: DownloadPolicy, pace: Pace, deadline: float) -> None:
    while block := read(pace.block(_BLOCK)):
        part.write(block)
        if part.size > policy.max_bytes:
            part.restart()
            raise FetchError("too_large", f"more than {policy.max_bytes} bytes")
        if time.monotonic() > deadline:
            raise Passing("timeout", f"not complete in {policy.limit_s:g} s, {part.size} bytes arrived")
        pace.spend(len(block))


def _from_status(response: requests.Response) -> FetchError:
    code = response.status_code
    if code in (404, 410):
        return FetchError("not_found", f"HTTP {code}")
    if code < 500 and code not in (408, 425, 429):
        return FetchError("http_error", f"HTTP {code}")
    failure = Passing("rate_limited" if code == 429 else "server_error", f"HTTP {code}")
    failure.retry_after_s = seconds_to_wait(response.headers.get("Retry-After", ""))
    return failure


def seconds_to_wait(retry_after: str) -> float | None:
    """The pause that a Retry-After header asks for, written as seconds or as a date; None when it asks for none."""
    text = retry_after.strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _from_exception(error: Exception) -> FetchError:
    causes = (error, *error.args)
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema | requests.exceptions.MissingSchema):
        return FetchError("bad_url", str(error))
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return FetchError("http_error", str(error))
    if isinstance(error, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
        return Passing("timeout", "no answer in time")
    if any(isinstance(cause, urllib3.exceptions.IncompleteRead) for cause in causes):
        return Passing("truncated", str(error))
    if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError | ConnectionError):
        return Passing("connection", f"{type(error).__name__}: {error}"[:300])
    # A full disk, for example: says nothing about the object.
    return Passing("storage", f"{type(error).__name__}: {error}")
