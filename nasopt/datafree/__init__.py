"""Compression without data: images made from what a trained network remembers, to calibrate and to teach with.

```python
from nasopt import datafree

generator = datafree.search_generator(model, classes=10, shape=(3, 32, 32))    # or datafree.Generator(10, (3, 32, 32))
datafree.train_generator(generator, model)
batches = datafree.generate(generator, 512)
nasopt.export.to_int8_onnx(model, "model.onnx", batches)
datafree.train_student(student, model, generator)
```
"""

from nasopt.datafree.generator import Generator, searchable_generator
from nasopt.datafree.statistics import StatisticsLoss
from nasopt.datafree.training import generate, search_generator, train_generator, train_student

__all__ = [
    "Generator",
    "StatisticsLoss",
    "generate",
    "search_generator",
    "searchable_generator",
    "train_generator",
    "train_student",
]
