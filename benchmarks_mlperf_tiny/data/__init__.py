"""Data sets of the benchmarks: where each comes from, and how it is split."""
