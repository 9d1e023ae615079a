"""Benchmarks: kernels (pytest-benchmark) and the comparison with other block servers (compare)."""
