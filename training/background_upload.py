"""An upload that runs behind the training."""

import threading
import time
from collections.abc import Callable


class BackgroundUpload:
    """Work in a daemon thread: it dies with the process and leaves nothing that looks complete."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self.seconds: float | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), name="checkpoint upload", daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        began = time.perf_counter()
        try:
            work()
        except BaseException as error:  # raised where the training waits for it
            self.error = error
        self.seconds = time.perf_counter() - began

    def ended(self, patience_s: float | None) -> bool:
        self._thread.join(patience_s)
        return not self._thread.is_alive()
