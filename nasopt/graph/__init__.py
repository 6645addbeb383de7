"""From a model to a smaller one: the only place that knows torch.fx.

    example  = make_example(model, (3, 32, 32), None)      # what the model takes
    traced   = trace_model(model, example)                 # a graph whose nodes know shapes and Python values
    analysis = analyse(traced, example)                    # groups of channels: writers, readers, reasons
    keep     = analysis.keep(alive)                        # one bool per searchable channel -> one per label
    network  = slim(analysis, keep)                        # sliced layers, rewritten constants, no dead code

`trace` runs `forward` with proxies (`proxy`) that carry fake values (`values`). `propagate` runs the graph on labels
(`labels`) and asks the table of rules (`registry`, `rules/`) about every call; a rule speaks through a `Call`. `mask`
makes the forward pass of a search model, `slim` (with `rewrite` and `kernels`) the exported network.

Adding a layer type is one entry in `rules/`, or one use of `nasopt.layer_rule` in your own code.
"""

from nasopt.graph.call import Call
from nasopt.graph.layer_shape import LayerShape

__all__ = ["Call", "LayerShape"]
