"""How the files of a catalog are fetched."""

from dataclasses import dataclass, field
from typing import Any

from infra.errors import UserError
from rendering.download import DownloadPolicy


def _how(default: Any) -> Any:
    """A setting that decides how files come, not which."""
    return field(default=default, metadata={"identity": False})


@dataclass(frozen=True)
class FetchConfig:
    """How patiently objects are fetched, and where finished ones may already lie.

    Attributes:
        attempts: tries per download and address.
        connect_s: longest wait for a connection.
        timeout_s: longest wait for the next bytes.
        limit_s: longest duration of one try.
        backoff_s: pause before the second try; doubles with each, and a random part is added.
        connections: most downloads at a time, all workers together; they all go to one host.
        max_mb_per_s: most megabytes a second, all workers together; 0 means no cap.
        mirrors: base URLs (http, https or file) in the layout of the original, asked in order when the first address fails.
        objaverse_cache: folder of the `objaverse` package's cache; empty means the package's own.
    """

    attempts: int = _how(4)
    connect_s: float = _how(10.0)
    timeout_s: float = _how(30.0)
    limit_s: float = _how(1800.0)
    backoff_s: float = _how(1.0)
    connections: int = _how(16)
    max_mb_per_s: float = _how(0.0)
    mirrors: tuple[str, ...] = _how(())
    objaverse_cache: str = _how("")

    def __post_init__(self) -> None:
        for name in ("attempts", "connections"):
            if getattr(self, name) < 1:
                raise UserError(f"fetch.{name} is {getattr(self, name)}", "give a whole number above zero")

    @property
    def policy(self) -> DownloadPolicy:
        return DownloadPolicy(self.attempts, self.timeout_s, self.limit_s, self.backoff_s, connect_s=self.connect_s)
