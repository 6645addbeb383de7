"""From a model to its channels to a smaller model: the only place that knows torch.fx.

A module of five lines:

>>> class Residual(nn.Module):
...     def __init__(self):
...         super().__init__()
...         self.left, self.right, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Linear(8, 2)
...     def forward(self, x):
...         y = torch.cat([self.left(x) + self.right(x), self.left(x)], 1)
...         return self.head(y.relu().mean((2, 3)))

Its graph, labelled: every channel of every activation has a number. What is added has one number in common, a concatenation
just moves them, and a layer that mixes channels writes new ones. 0 is what nobody may remove.

>>> example = make_example(Residual(), (3, 8, 8), None)
>>> traced = trace_model(Residual(), example)
>>> analysis = analyse(traced, example)
>>> for node, labels in analysis.facts.values.items():
...     print(f"{node.name:6}", channels(analysis, labels))
x      0 0 0
left   1 2 3 4
right  1 2 3 4
add    1 2 3 4
left_1 1 2 3 4
cat    1 2 3 4 1 2 3 4
relu   1 2 3 4 1 2 3 4
mean   1 2 3 4 1 2 3 4
head   9 10
>>> [(group.name, group.writers, group.readers, group.searchable) for group in analysis.groups]
[('left', ('left', 'right'), ('head',), True), ('head', ('head',), (), False)]

Its slimmed code, when two of the four channels stay:

>>> small = slim(analysis, analysis.keep(torch.tensor([True, False, False, True])))
>>> small.left, small.head
(Conv2d(3, 2, kernel_size=(1, 1), stride=(1, 1)), Linear(in_features=4, out_features=2, bias=True))
>>> print(code(small))
left = self.left(x)
right = self.right(x)
add = left + right
left_1 = self.left(x)
cat = torch.cat([add, left_1], 1)
relu = cat.relu()
mean = relu.mean((2, 3))
head = self.head(mean)
return head

`trace` runs `forward` with proxies (`proxy`) that carry fake values (`values`). `propagate` runs the graph on labels
(`labels`) and asks the table of rules (`registry`, `rules/`) about every call; a rule speaks through a `Call`, which writes
its `facts`. `groups` sorts the channels by who writes and reads them. `masked` makes the forward pass of a search model, `slim`
(with `rewrite` and `kernels`) the exported network, `branches/` is how a graph holds alternatives.

Adding a layer type is one entry in `rules/`, or one use of `nasopt.layer_rule` in your own code.
"""

from nasopt.graph.call import Call
from nasopt.graph.layer_shape import LayerShape

__all__ = ["Call", "LayerShape"]
