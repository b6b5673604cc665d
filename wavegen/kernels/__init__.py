"""Numba on contiguous arrays and nothing else."""
