"""One file from the first of several addresses that gives it, complete and verified or not at all."""

import random
import time
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.storage import sha256_of
from rendering.pace import Pace
from rendering.part_file import claimed, forget
from rendering.sources.base import Fetched, FetchError
from rendering.transfer import DEFAULT_POLICY, DownloadPolicy, Passing, receive

SAMPLE_BYTES = 256 << 10

__all__ = ["DEFAULT_POLICY", "DownloadPolicy", "WrongBytes", "download"]


class WrongBytes(FetchError):
    """A complete answer that is not the file. `sample` is its beginning, `sha256` and `size` are those of the whole.

    `is_final` when no other answer is to be expected from that address.
    """

    def __init__(self, reason: str, detail: str, sha256: str = "", size: int = 0, sample: bytes = b"", is_final: bool = True) -> None:
        super().__init__(reason, detail)
        self.sha256, self.size, self.sample, self.is_final = sha256, size, sample, is_final


def download(
    address: str | Sequence[str],
    place: Callable[[str], Path],
    *,
    sha256: str | None = None,
    check: Callable[[Path], object] | None = None,
    policy: DownloadPolicy = DEFAULT_POLICY,
    pace: Pace | None = None,
    sleep: Callable[[float], None] = time.sleep,
    chance: Callable[[], float] = random.random,
) -> Fetched:
    """Fetch one file into the place that `place` names for the content's sha256.

    The bytes go to a part file beside the target (the folder of `place("")`), are verified, synced and renamed: several
    processes may fetch the same file and nobody sees half of it. A part file outlives its process; the next attempt,
    here or in another process, continues it where the server allows that.

    Args:
        address: one URL, or mirrors of the same file in order of preference.
        sha256: expected hex digest, where known.
        check: looks at the complete part file and raises FetchError when it is not what it should be.
    Raises:
        FetchError: after all attempts the trouble of the most promising address: `Passing` (`timeout`, `connection`,
            `server_error`, `rate_limited`, `truncated`, `bad_range`), `WrongBytes` (`checksum`, or what `check` raised),
            or `not_found`, `http_error`, `bad_url`, `too_large`.
    """
    waiting = [address] if isinstance(address, str) else list(address)
    mirrors = tuple(waiting)
    troubles: dict[str, FetchError] = {}
    for attempt in range(1, policy.attempts + 1):
        pause = policy.backoff_s * 2 ** (attempt - 1)
        for url in tuple(waiting):
            try:
                fetched = _attempt(url, place, sha256, check, policy, pace or Pace())
            except FetchError as error:
                if not isinstance(error, Passing) and not _worth_another(error, troubles.get(url)):
                    waiting.remove(url)
                pause = max(pause, getattr(error, "retry_after_s", None) or 0.0)
                troubles[url] = error
                continue
            for other in mirrors:
                forget(Path(fetched.path).parent, other)
            return fetched
        if not waiting:
            break
        if attempt < policy.attempts:
            # A random part, so that workers which failed together do not return together.
            sleep(min(pause, policy.backoff_limit_s) * (1.0 + chance() / 2))
    url, trouble = max(troubles.items(), key=lambda item: _promise(item[1]))
    trouble.detail = f"{url}: {trouble.detail} (attempt {attempt})"
    raise trouble


def _worth_another(error: FetchError, before: FetchError | None) -> bool:
    """Wrong bytes may be a passing error page; the same wrong bytes twice are what this address has."""
    if not isinstance(error, WrongBytes) or error.is_final:
        return False
    return not (isinstance(before, WrongBytes) and before.sha256 == error.sha256)


def _promise(error: FetchError) -> int:
    """Which of several addresses' troubles stands for the file: that which is likeliest to end well another day."""
    return 2 if isinstance(error, Passing) else 1 if isinstance(error, WrongBytes) else 0


def _attempt(
    url: str,
    place: Callable[[str], Path],
    sha256: str | None,
    check: Callable[[Path], object] | None,
    policy: DownloadPolicy,
    pace: Pace,
) -> Fetched:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise FetchError("bad_url", f"{url[:200]!r} is not an http, https or file URL")
    with claimed(place("").parent, url) as part:
        receive(url, part, policy, pace)
        found = sha256_of(part.path)
        try:
            if sha256 is not None and found != sha256:
                raise FetchError("checksum", f"sha256 is {found}, expected {sha256}")
            if check is not None:
                check(part.path)
        except FetchError as error:
            with open(part.path, "rb") as stream:
                sample = stream.read(SAMPLE_BYTES)
            size = part.size
            part.discard()
            raise WrongBytes(error.reason, error.detail, found, size, sample, is_final=found == sha256) from error
        target, size = place(found), part.size
        part.finish(target)
        return Fetched(str(target), found, size)
