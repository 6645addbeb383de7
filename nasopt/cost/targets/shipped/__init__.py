"""Targets that ship with nasopt, one file each: `NAME.py` with `TARGET = Target(name="NAME", ...)` is all there is to add."""
