"""Where does a search model keep the tensors that it took over from its seed?"""

from __future__ import annotations

from collections.abc import Mapping

from nasopt.methods.nasb.backbone import Backbone


def cell_origins(name: str, backbone: Backbone) -> dict[str, str]:
    """Path in the seed -> path in the search model's network, of every layer that the cell `name` took over."""
    return {old: f"{name}.{_in_branch_0(new)}" for old, new in backbone.origins.items()}


def own_name(seed_name: str, origins: Mapping[str, str]) -> str:
    """Name in the state dict of a search model of the seed's tensor `seed_name`."""
    layer, _, tensor = seed_name.rpartition(".")
    parts = layer.split(".")
    for length in range(len(parts), 0, -1):
        path = ".".join(parts[:length])
        if path in origins:
            return ".".join(["net", origins[path], *parts[length:], tensor])
    return f"net.{seed_name}"


def _in_branch_0(path: str) -> str:
    return f"steps.0.{path[len('steps.') :]}" if path.startswith("steps.") else path
