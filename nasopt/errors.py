"""What can go wrong, as types: every exception and warning that nasopt raises on purpose.

All errors derive from `NasoptError`; each also derives from the built-in type that a caller would expect.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NasoptError(Exception):
    """Base of every error that nasopt raises on purpose."""


class ConfigError(NasoptError, ValueError):
    """An argument of a public function is not usable: the message names it, what arrived, and what is allowed."""


class TraceError(NasoptError, RuntimeError):
    """The model's `forward` cannot be turned into a graph."""


class UnknownOperationError(NasoptError, RuntimeError):
    """With `strict=True`: an operation has no rule."""


class UnpricedError(NasoptError, ValueError):
    """A cost was asked for a kind of layer that the target has no law for: unknown is not zero."""


class ExportError(NasoptError, RuntimeError):
    """The found network could not be built, or does not compute what the search model computes."""


class ArchitectureError(NasoptError, ValueError):
    """Architecture parameters hold values that describe no network (NaN, infinity)."""


class DivergedError(NasoptError, ArithmeticError):
    """A training loss is not finite any more.

    Attributes:
        model: the search model of the last good epoch.
    """

    def __init__(self, message: str, model: object) -> None:
        super().__init__(message)
        self.model = model


class MissingExtraError(NasoptError, ImportError):
    """An optional package is not installed: the message names the command that installs it."""


class NoEffectWarning(UserWarning):
    """The search can change nothing, or almost nothing, in this model."""


class BudgetWarning(UserWarning):
    """A search ends outside a limit."""


class LayerWarning(UserWarning):
    """A layer stands where it cannot work as meant."""


class RangeWarning(UserWarning):
    """Data lie far from the grid that rounds them: of another range than those that have set its steps."""


class TraceWarning(UserWarning):
    """The traced graph differs from the model in a way that a user may care about."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'macs'?"` for a word close to a known one, else an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {match[0]!r}?" if match else ""
