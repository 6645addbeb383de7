"""Keyword arguments that all search methods share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from torch import nn

from nasopt.cost import AnyMetric, Target
from nasopt.errors import ConfigError
from nasopt.search.regularizer import Budget

AnyRegularizer = str | AnyMetric | Target | Budget | Mapping[str, float] | Mapping[Any, float]
Unpriced = Literal["raise", "ignore"]


class SearchOptions(TypedDict, total=False):
    """What every search method takes beside its own arguments.

    Attributes:
        input_example: in place of `input_shape`: a batch as a tensor, a tuple of tensors, or a dict of keyword arguments.
        regularizer: what a search pays for: `"size"` (default), `"macs"`, `"memory"`, `"latency:TARGET"`, a
            `nasopt.cost.Metric`, a target, or a dict of several with weights; or a `nasopt.Budget` of limits. Expected over
            the branches of choices.
        relative: express every cost as a fraction of the seed's (of first branches), so that one strength fits every model.
        leaf_modules: names, globs or classes of modules that are not traced into: units with fixed channels.
        strict: raise for an operation without a rule, in place of fixing its channels.
        unpriced: `"raise"` (default): a cost that counts work (MACs, operations, latency, energy) is an error where nobody
            knows that of some call; `"ignore"`: such calls are left out, `search_space()` and `print(model)` list them.
        precision: widths in bits of weights and activations: a `nasopt.Precision`, or an int, e.g. 8. One width is
            quantisation-aware training, several are searched. None: floats.
        verify: run search model and seed once in either mode and compare them (default); an error names the first difference.
    """

    input_example: Any
    regularizer: AnyRegularizer
    relative: bool
    leaf_modules: Sequence[str | type[nn.Module]] | str | type[nn.Module]
    strict: bool
    unpriced: Unpriced
    precision: Any
    verify: bool


def check_unpriced(unpriced: Any) -> Unpriced:
    """The word.

    Raises:
        ConfigError: it is another one.
    """
    if unpriced not in ("raise", "ignore"):
        raise ConfigError(f'unpriced must be "raise" or "ignore", got {unpriced!r}')
    return unpriced  # type: ignore[no-any-return]
