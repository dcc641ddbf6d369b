"""The one exception a user is meant to read: what is wrong, and how to mend it."""


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
