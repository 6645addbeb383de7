"""Recurrent layers: hidden units are channels, which the layer writes, and reads at the next step.

A unit has a row of every gate in both weights, and a column in the weights that read it. All layers and directions of one
`nn.LSTM` have the same number of units, so unit i of all of them lives and dies together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nasopt.graph.call import Call
from nasopt.graph.registry import layer_rule

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def _run_with_weights(layer: Any, state: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Torch's recurrent layers take their weights from a list beside their parameters."""
    own = layer._flat_weights
    layer._flat_weights = [state.get(name, weight) for name, weight in zip(layer._flat_weights_names, own)]
    try:
        return layer(*args, **kwargs)
    finally:
        layer._flat_weights = own


@layer_rule(nn.LSTM, nn.GRU, nn.RNN, searchable="hidden units", run_with=_run_with_weights)
def recurrent(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, nn.RNNBase)
    x, state = call.argument(0, "input"), call.argument(1, "hx")
    if not isinstance(x, Tensor) or layer.proj_size:
        return _whole(call, layer)
    rows = max(x[..., 0].numel() // call.batch, 1)
    gates, directions = _GATES[layer.mode], 2 if layer.bidirectional else 1
    read = call.channels(x, -1)
    call.attribute("input_size", read)
    units: Tensor | None = None
    for depth in range(layer.num_layers):
        for direction in range(directions):
            name = f"_l{depth}" + ("_reverse" if direction else "")
            written = call.writes(f"weight_ih{name}", 0, layer.hidden_size, repeat=gates)
            own = written[: layer.hidden_size]
            if units is not None:
                call.unite(units, own)
            units = own if units is None else units
            call.reads(f"weight_ih{name}", 1, read)
            _read_state(call, name, written, own)
            for kind, count in (("ih", read), ("hh", own)):
                weight = f"weight_{kind}{name}"
                call.cost("linear", count, written, positions=rows, bias=layer.bias, weight=weight)
        assert units is not None
        read = units.repeat(directions)
    assert units is not None
    call.attribute("hidden_size", units)
    for one in [state] if isinstance(state, Tensor) else state or ():
        call.unite(one, call.spread(units, -1, one.shape))
    output, last = call.value
    results = [last] if isinstance(last, Tensor) else last
    spread = tuple(call.spread(units, -1, one.shape) for one in results)
    return call.spread(read, -1, output.shape), spread[0] if isinstance(last, Tensor) else spread


def _read_state(call: Call, name: str, written: Tensor, units: Tensor) -> None:
    call.slices(f"weight_hh{name}", 0, written)
    call.reads(f"weight_hh{name}", 1, units)
    for bias in ("bias_ih", "bias_hh"):
        call.slices(f"{bias}{name}", 0, written)


def _whole(call: Call, layer: nn.RNNBase) -> Any:
    """With projections, and for packed sequences: priced, and fixed."""
    first = call.tensors[0]
    rows = max(first[..., 0].numel() // call.batch, 1)
    directions = 2 if layer.bidirectional else 1
    state = layer.proj_size or layer.hidden_size
    for depth in range(layer.num_layers):
        read = layer.input_size if depth == 0 else state * directions
        for direction in range(directions):
            name = f"_l{depth}" + ("_reverse" if direction else "")
            written = _GATES[layer.mode] * layer.hidden_size
            call.cost("linear", read, written, positions=rows, bias=layer.bias, weight=f"weight_ih{name}")
            call.cost("linear", state, written, positions=rows, bias=layer.bias, weight=f"weight_hh{name}")
            if layer.proj_size:
                call.cost("linear", layer.hidden_size, state, positions=rows, weight=f"weight_hr{name}")
    return call.fixed_unit("a recurrent layer with projections, or of packed sequences, stays whole")


@layer_rule(nn.LSTMCell, nn.GRUCell, nn.RNNCell, searchable="hidden units")
def recurrent_cell(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, nn.RNNCellBase)
    x, state = call.argument(0, "input"), call.argument(1, "hx")
    gates = layer.weight_ih.shape[0] // layer.hidden_size
    read = call.channels(x, -1)
    written = call.writes("weight_ih", 0, layer.hidden_size, repeat=gates)
    units = written[: layer.hidden_size]
    call.reads("weight_ih", 1, read)
    _read_state(call, "", written, units)
    rows = max(x[..., 0].numel() // call.batch, 1)
    for kind, count in (("ih", read), ("hh", units)):
        call.cost("linear", count, written, positions=rows, bias=layer.bias, weight=f"weight_{kind}")
    call.attribute("input_size", read)
    call.attribute("hidden_size", units)
    for one in [state] if isinstance(state, Tensor) else state or ():
        call.unite(one, call.spread(units, -1, one.shape))
    if isinstance(call.value, Tensor):
        return call.spread(units, -1)
    return tuple(call.spread(units, -1, one.shape) for one in call.value)
