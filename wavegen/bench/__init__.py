"""Speed and memory of models on this machine: every figure from processes of its own, the median of several."""

from wavegen.bench.plain import plain_decode, plain_loop
from wavegen.bench.table import bench

__all__ = ["bench", "plain_decode", "plain_loop"]
