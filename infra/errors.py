"""The one exception a user is meant to read: what is wrong, and how to mend it."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """Bad input or a missing precondition that the user can mend.

    The command line prints `message` and `mend` without a traceback and exits with status 2.
    """

    def __init__(self, message: str, mend: str = "") -> None:
        super().__init__(f"{message}\n  mend: {mend}" if mend else message)
        self.message = message
        self.mend = mend

    def __reduce__(self) -> tuple:
        # Exceptions cross process borders in Ray; the default pickling would pass one argument only.
        return type(self), (self.message, self.mend)


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """A `UserError` raised inside an actor arrives wrapped in others; hand on what the user is meant to read."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        # Ray's own is of both kinds, and its text is a whole traceback; what it carries is the plain one.
        while cause is not None and (not isinstance(cause, UserError) or isinstance(getattr(cause, "cause", None), UserError)):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None and cause is not error:
            raise cause from error
        raise
