"""nasopt: differentiable neural architecture search that makes a PyTorch network fit a microcontroller.

```python
from nasopt import PIT

model = PIT(seed, input_shape=(3, 32, 32), regularizer="macs")               # wrap: the seed becomes a search model
loss = criterion(model(x), y) + strength * model.get_regularization_loss()    # price: pay for what the network costs
found = model.arch_export()                                                   # take: the slimmed model
```
"""

import importlib
from typing import TYPE_CHECKING, Any

from nasopt.graph.registry import function_rule, layer_rule
from nasopt.methods import NASB, PIT, MixedPrecision, PITSuperNet, SuperNet, supernet_candidates, with_candidates
from nasopt.methods.prune_quantised import prune_quantised
from nasopt.methods.restore import restore
from nasopt.search import schedule
from nasopt.search.allocate import allocate_bits
from nasopt.search.layer_choice import SuperNetModule
from nasopt.search.phases import PhaseSchedule
from nasopt.search.precision import Precision
from nasopt.search.recalibrate import recalibrate
from nasopt.search.regularizer import Budget
from nasopt.search.switchable import Switchable
from nasopt.search.switches import Switch
from nasopt.searching import search

if TYPE_CHECKING:
    from nasopt import export, zoo
else:

    def __getattr__(name: str) -> Any:
        """Import `nasopt.export` and `nasopt.zoo` where they are first used: a search needs neither."""
        if name in ("export", "zoo"):
            return importlib.import_module(f"nasopt.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "NASB",
    "PIT",
    "Budget",
    "MixedPrecision",
    "PITSuperNet",
    "PhaseSchedule",
    "Precision",
    "SuperNet",
    "SuperNetModule",
    "Switch",
    "Switchable",
    "allocate_bits",
    "export",
    "function_rule",
    "layer_rule",
    "prune_quantised",
    "recalibrate",
    "restore",
    "schedule",
    "search",
    "supernet_candidates",
    "with_candidates",
    "zoo",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
