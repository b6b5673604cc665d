"""Models as ONNX files, for programs that have an engine for such files but neither torch nor Python.

A graph is written operator by operator and not traced: torch's exporter takes a minute where this takes a second, knows
no triangular solve, and leaves products of weights in the graph that are worked out here once.
"""

from wavegen.export.waveglow import export_onnx

__all__ = ["export_onnx"]
