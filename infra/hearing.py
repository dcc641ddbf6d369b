"""Whether this driver still hears what becomes of its actors.

Ray 2.60 was seen to lose a driver's subscription to the states of actors: the cluster made them, the driver's long poll was never
answered again, and Ray Data waited for "pending" actors without end. A new actor that answers is the only sign that one can ask for.
One way there is a fork: the child shares the driver's connection, and after a call of the child the driver's next one is never answered.
"""

import os
import time
from dataclasses import dataclass, field
from typing import Any

import ray

from infra.errors import UserError

PATIENCE = "MVFORGE_NODE_PATIENCE_S"
USUAL_PATIENCE_S = 600.0
QUIET_S = 120.0


def patience_s() -> float:
    """For how long the cluster is waited for before a step gives up: `$MVFORGE_NODE_PATIENCE_S`, else ten minutes."""
    return float(os.environ.get(PATIENCE, USUAL_PATIENCE_S))


class _Echo:
    def said(self) -> bool:
        return True


class Echo:
    """An actor that takes no CPU and is asked one question; its process ends with this object."""

    def __init__(self, **options: Any) -> None:
        actor_class: Any = ray.remote(num_cpus=0, **options)
        self._actor = actor_class(_Echo).remote()
        self._answer = self._actor.said.remote()

    def answered(self, timeout_s: float = 0.0) -> bool:
        """Whether anything was heard of it within `timeout_s`; that its node was lost is an answer too."""
        return bool(ray.wait([self._answer], timeout=timeout_s)[0])


@dataclass
class Hearing:
    """Asks an echo when a step has been silent for a while; call `check` while waiting and `heard` when something came.

    Attributes:
        step: for messages.
        quiet_s: seconds of silence after which an echo is asked, again and again while the silence lasts.
        patience_s: seconds for which the echo may stay silent too.
        options: further options of the echo's actor.
    """

    step: str
    quiet_s: float = QUIET_S
    patience_s: float = field(default_factory=patience_s)
    options: dict[str, Any] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)
    _echo: Echo | None = None

    def heard(self) -> None:
        """Something came: the silence begins anew."""
        self._since, self._echo = time.monotonic(), None

    def check(self) -> None:
        """Ask, or look for the answer; never waits.

        Raises:
            UserError: the echo has been silent for longer than the patience.
        """
        now = time.monotonic()
        if self._echo is None:
            if now - self._since >= self.quiet_s:
                self._since, self._echo = now, Echo(**self.options)
        elif self._echo.answered():
            self.heard()
        elif now - self._since >= self.patience_s:
            raise UserError(
                f"{self.step}: this process no longer hears of actors that the cluster makes, since {self.patience_s:.0f} s",
                f"run the same command again, what is finished is kept; {PATIENCE} sets how long is waited",
            )
