"""Restoring a found network from its seed and its structure, without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from nasopt.checked import checked_but
from nasopt.graph.branches.decided import rename
from nasopt.methods.nasb.structure import current, old_names, seed_with_cells
from nasopt.search.seed import check_seed
from nasopt.search.structure import check_structure, rebuild


@checked_but("seed", "structure")
def restore(
    seed: nn.Module, structure: Mapping[str, Any], *, input_example: Any = None, leaf_modules: tuple[Any, ...] = ()
) -> nn.Module:
    """The found network, rebuilt from its seed; a `state_dict` of the exported network loads into it.

    ```python
    json.dump(model.arch_structure(), file)                    # with the state_dict: all that is to keep
    network = nasopt.restore(make_seed(), json.load(file))
    network.load_state_dict(torch.load("weights.pt"))
    ```

    Args:
        seed: a model of the same architecture as the one that was wrapped; its weights are cut, it stays as it is.
        structure: from `arch_structure()`.
        input_example: only where an input of the model is not a plain tensor.
        leaf_modules: as given to the search model.

    Raises:
        ConfigError: the dict is no structure of this version, or names layers or channels that the seed does not have.
    """
    check_seed(seed, "restore")
    found = current(structure)
    check_structure(found)
    if "binary_cells" not in found:
        return rebuild(seed, found, input_example, leaf_modules)
    model, example = seed_with_cells(seed, found, input_example, leaf_modules)
    network = rebuild(model, found, example, leaf_modules)
    # Networks of older structures have had other names.
    return network if found is structure else rename(network, old_names(structure))
