"""Errors a user can cause. Each message says what was wrong and what to do."""


class ReproError(Exception):
    """Base of all errors that are reported as one line, without a stack trace."""

    def _render_traceback_(self) -> list[str]:
        # IPython's hook for exceptions that print themselves: one line in a notebook too.
        return [f"{type(self).__name__}: {self}"]


class ConfigError(ReproError):
    """An unknown name or an impossible value was asked for."""


class DataError(ReproError):
    """Facts are missing, truncated, or differ from their checksum."""


class ModelError(ReproError):
    """A model cannot be found, read or used."""


class TrainingError(ReproError):
    """Fine-tuning cannot start or cannot go on."""


class StoreError(ReproError):
    """A record or a cache folder cannot be read or written."""


def one_line(error: Exception) -> str:
    """Return an error's message as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
