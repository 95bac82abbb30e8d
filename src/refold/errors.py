"""The mistakes a user can make. `train.py` and the scripts print their message alone, without a traceback."""


class RefoldError(Exception):
    """A mistake that the user can mend. Its message names the value, the bound and the config key."""


class ConfigError(RefoldError):
    """A setting is unknown, of the wrong type, out of bounds, or does not go with another one."""


class DataError(RefoldError):
    """The data cannot be read, or cannot be turned into windows."""


class Interrupted(BaseException):
    """A run stopped on ctrl-C or SIGTERM after it wrote its checkpoint; or a sweep, at a job that failed.

    A BaseException, so that no `except Exception` on the way takes it for a failure; not a KeyboardInterrupt, at which
    Lightning leaves the process by itself. `status` is the exit status.
    """

    def __init__(self, message: str, status: int = 130):
        super().__init__(message)
        self.status = status


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
