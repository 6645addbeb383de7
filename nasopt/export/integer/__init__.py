"""Integer programs of quantised networks: from the graph, run in NumPy, kept in a file, written as C."""

from nasopt.export.integer.builder import integer_program
from nasopt.export.integer.program import IntegerProgram

__all__ = ["IntegerProgram", "integer_program"]
