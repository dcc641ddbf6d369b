"""One file over http, https or file://, complete and verified or not at all."""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rendering.sources.base import Fetched, FetchError

_BLOCK = 1 << 16
_RETRIED = {"timeout", "connection", "server_error", "truncated", "checksum"}


@dataclass(frozen=True)
class DownloadPolicy:
    """How long to wait and how often to try.

    Attributes:
        attempts: tries per file in all.
        timeout_s: longest wait for a connection or for the next bytes.
        limit_s: longest duration of one attempt.
        backoff_s: pause before the second attempt; doubles each time unless the server names one, at most `backoff_limit_s`.
    """

    attempts: int = 4
    timeout_s: float = 30.0
    limit_s: float = 1800.0
    backoff_s: float = 1.0
    backoff_limit_s: float = 60.0


DEFAULT_POLICY = DownloadPolicy()


class _Retryable(FetchError):
    """Carries the pause that a server asked for."""

    retry_after_s: float | None = None


def download(
    url: str,
    place: Callable[[str], Path],
    *,
    sha256: str | None = None,
    check: Callable[[Path], object] | None = None,
    policy: DownloadPolicy = DEFAULT_POLICY,
    sleep: Callable[[float], None] = time.sleep,
) -> Fetched:
    """Fetch `url` into the file that `place` names for the content's sha256.

    The bytes go to a unique temporary file beside the target (the folder of `place("")`), are verified, synced and
    renamed, so that several processes may fetch the same file and nobody sees half of it.

    Args:
        sha256: expected hex digest, where known.
        check: looks at the complete temporary file and raises FetchError when it is not what it should be.
    Raises:
        FetchError: `not_found`, `http_error`, `bad_url`, or after all attempts `timeout`, `connection`, `server_error`,
            `truncated`, `checksum`, or what `check` raised.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise FetchError("bad_url", f"{url[:200]!r} is not an http, https or file URL")
    for attempt in range(1, policy.attempts + 1):
        try:
            return _attempt(url, place, sha256, check, policy)
        except FetchError as error:
            if error.reason not in _RETRIED or attempt == policy.attempts:
                raise FetchError(error.reason, f"{url}: {error.detail} (attempt {attempt})") from error
            pause = getattr(error, "retry_after_s", None)
            sleep(min(policy.backoff_s * 2 ** (attempt - 1) if pause is None else pause, policy.backoff_limit_s))
    raise ValueError(f"attempts is {policy.attempts}, must be at least 1")


def _attempt(
    url: str,
    place: Callable[[str], Path],
    sha256: str | None,
    check: Callable[[Path], object] | None,
    policy: DownloadPolicy,
) -> Fetched:
    folder = place("").parent
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        found, size = _receive(url, temporary, policy)
        if sha256 is not None and found != sha256:
            raise FetchError("checksum", f"sha256 is {found}, expected {sha256}")
        if check is not None:
            check(temporary)
        target = place(found)
        os.replace(temporary, target)
        return Fetched(str(target), found, size)
    finally:
        temporary.unlink(missing_ok=True)


def _receive(url: str, temporary: Path, policy: DownloadPolicy) -> tuple[str, int]:
    """Stream to disk; returns the hex sha256 and the size. Raises FetchError for every way a transfer can end badly."""
    try:
        with urllib.request.urlopen(url, timeout=policy.timeout_s) as response, open(temporary, "wb") as stream:
            found, size = _copy(response, stream, time.monotonic() + policy.limit_s)
            declared = response.headers.get("Content-Length")
            stream.flush()
            os.fsync(stream.fileno())
    except urllib.error.HTTPError as error:
        raise _from_status(error) from error
    except urllib.error.URLError as error:
        raise _from_reason(error.reason) from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _from_reason(error) from error
    if declared is not None and size != int(declared):
        raise FetchError("truncated", f"{size} of {declared} bytes arrived")
    return found, size


def _copy(response, stream, deadline: float) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while block := response.read1(_BLOCK):
        if time.monotonic() > deadline:
            raise FetchError("timeout", f"not complete in time, {size} bytes arrived")
        digest.update(block)
        stream.write(block)
        size += len(block)
    return digest.hexdigest(), size


def _from_status(error: urllib.error.HTTPError) -> FetchError:
    if error.code in (404, 410):
        return FetchError("not_found", f"HTTP {error.code}")
    if error.code < 500 and error.code not in (408, 425, 429):
        return FetchError("http_error", f"HTTP {error.code}")
    failure = _Retryable("server_error", f"HTTP {error.code}")
    pause = error.headers.get("Retry-After", "")
    failure.retry_after_s = float(pause) if pause.isdigit() else None
    return failure


def _from_reason(reason: object) -> FetchError:
    if isinstance(reason, FileNotFoundError | IsADirectoryError):
        return FetchError("not_found", str(reason))
    if isinstance(reason, TimeoutError):
        return FetchError("timeout", "no answer in time")
    if isinstance(reason, http.client.IncompleteRead):
        return FetchError("truncated", str(reason))
    return FetchError("connection", f"{type(reason).__name__}: {reason}")
