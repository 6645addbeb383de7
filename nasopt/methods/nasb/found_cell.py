"""What is a cell after the search? Its backbone and the operations that were kept."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from nasopt.methods.nasb.candidates import IDENTITY, takes_source
from nasopt.methods.nasb.cell import CellBody, Choice, Edge, choice_name


class FoundCell(CellBody):
    """A found cell: the backbone and the operations that were kept.

    Attributes:
        choices: what was kept, in the order of addition.

    Args:
        body: a cell whose backbone is copied.
        choices: what is kept.
        layers: of every choice but identity.
    """

    def __init__(self, body: CellBody, choices: Iterable[Choice], layers: Mapping[Choice, nn.Module]) -> None:
        nn.Module.__init__(self)
        for name in ("shapes", "joints", "aligner_shapes"):
            setattr(self, name, getattr(body, name))
        for name in ("steps", "aligners", "after", "alignments"):
            self.add_module(name, copy.deepcopy(body.get_submodule(name)))
        self.training = body.training
        self.choices = tuple(choices)
        self.operations = nn.ModuleDict({choice_name(choice): layers[choice] for choice in layers})
        used = {str(c.edge.source) for c in self.choices if self._uses_aligner(c)}
        for start in set(self.aligners) - used:
            del self.aligners[start]

    def _uses_aligner(self, choice: Choice) -> bool:
        return not takes_source(choice.operation) and self.has_aligner(choice.edge.source, choice.edge.target)

    def forward(self, x: Tensor) -> Tensor:
        """As `NASBCell.forward`, with what was kept."""
        return self.run(x, self.choices, self._layers)

    def _layers(self, edge: Edge, operation: str) -> nn.Module | None:
        return None if operation == IDENTITY else self.operations[choice_name(Choice(edge, operation))]
