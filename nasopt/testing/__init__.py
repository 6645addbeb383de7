"""Laws of search methods: `check_method` runs all of them on one method and one seed, whoever wrote the method.

```python
from nasopt.testing import LAWS, check_method

def front(seed, inputs):
    return MyMethod(seed, input_example=inputs)

check_method(front, seed, (torch.randn(2, 3, 8, 8),))              # raises a LawError that names what is broken
check_method(front, seed, inputs, laws=LAWS.keys() - {"identity in train mode"})    # a method that draws branches
```
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from nasopt.arguments import check_items
from nasopt.checked import checked
from nasopt.errors import ConfigError, nearest
from nasopt.testing.case import ARCHITECTURES, Case, Front, LawError
from nasopt.testing.export_laws import EXPORT_LAWS
from nasopt.testing.search_laws import SEARCH_LAWS

__all__ = ["ARCHITECTURES", "LAWS", "LawError", "check_method"]

LAWS = {**SEARCH_LAWS, **EXPORT_LAWS}


@checked
def check_method(
    front: Front,
    seed: nn.Module,
    inputs: tuple[Any, ...],
    *,
    laws: Iterable[str] = LAWS,
    architectures: Iterable[str] = ARCHITECTURES,
) -> None:
    """Check that a search method keeps the laws on one seed.

    The seed is wrapped a few times in all, and every law starts from the same state of one search model. Small seeds in
    float64, each with one feature, find most; a law takes a few forward passes, not a training.

    A method offers what `nasopt.PIT` does: `forward` of the seed, `get_cost(metric, discrete)`,
    `get_regularization_loss()`, `arch_parameters()` and `net_parameters()`, both also with names, `param_groups(lr,
    arch_lr, weight_decay)`, `search_space()`, `arch_summary()`, `arch_structure()` (for `nasopt.restore`),
    `arch_export(verify)` and `explain()`. It can be copied, pickled and converted; its own state dict loads into it, and so
    does the seed's. Its attribute `net` holds the network under the seed's names.

    Args:
        front: `(seed, inputs) -> search model`, e.g. `lambda seed, inputs: PIT(seed, input_example=inputs)`.
        seed: a model that can be deep-copied; it stays as it is.
        inputs: a batch of at least two samples, one entry per argument of the seed.
        laws: names from `LAWS`, a dict from names to functions whose docstrings state the laws.
        architectures: names from `ARCHITECTURES`, values of the architecture parameters that every export is checked for;
            fewer for a large seed.

    Raises:
        LawError: at least one law is broken; the message names every one of them and what was found.
        ConfigError: an unknown law or architecture.
        Exception: whatever `front` raises when it wraps the seed for the first time.
    """
    chosen, kinds = (
        check_items(f"check_method: {name}", list(given) if isinstance(given, Mapping) else given, str, "names")
        for name, given in (("laws", laws), ("architectures", architectures))
    )
    for what, names, known in (("law", chosen, LAWS), ("architecture", kinds, ARCHITECTURES)):
        for name in names:
            if name not in known:
                raise ConfigError(f"unknown {what} {name!r}.{nearest(name, known)} Known are: {', '.join(known)}")
    broken: dict[str, Exception] = {}
    with torch.random.fork_rng(devices=[]):
        case = Case(front, seed, inputs, kinds)
        method = type(case.model).__name__
        for name in (name for name in LAWS if name in chosen):
            try:
                case.reset()
                LAWS[name](case)
            except Exception as error:  # whatever a method raises breaks the law, and the others are still checked
                broken[name] = error
    if broken:
        found = [e if isinstance(e, LawError) else f"{type(e).__name__}: {e}" for e in broken.values()]
        lines = [f"  {name}: {what}" for name, what in zip(broken, found)]
        head = f"{method} breaks {len(broken)} of {len(chosen)} laws on {type(seed).__name__}:"
        raise LawError("\n".join([head, *lines])) from next(iter(broken.values()))
