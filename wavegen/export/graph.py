"""ONNX graphs, written operator by operator."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["ALL", "Graph", "Value", "ints"]

ALL = 2**31 - 1  # where a slice ends that goes to the end

Value = str | Tensor | np.ndarray | float  # what an operator made, or a constant


def ints(*values: int) -> np.ndarray:
    """A shape, or axes, or places."""
    return np.array(values, np.int64)


class Graph:
    """Operators in the order they are computed; values go by the names of what made them."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self.numbers, self.nodes, self.constants = numbers, [], []

    def __call__(self, operator: str, *inputs: Value, name: str = "", **attributes: Any) -> str:
        """Add an operator; Python's numbers and tensors become constants, in float32 where they are Python's."""
        from onnx import helper

        name = name or f"{operator}_{next(self.numbers)}"
        self.nodes.append(helper.make_node(operator, [self._named(value) for value in inputs], [name], **attributes))
        return name

    def _named(self, value: Value) -> str:
        from onnx import numpy_helper

        if isinstance(value, str):
            return value
        array = np.asarray(value, np.float32 if isinstance(value, float) else None, order="C")
        self.constants.append(numpy_helper.from_array(array, f"constant_{next(self.numbers)}"))
        return self.constants[-1].name

    def cut(self, x: str, start: int, stop: int, *, axis: int) -> str:
        """x[start:stop] along an axis."""
        return self("Slice", x, ints(start), ints(stop), ints(axis))

    def split(self, x: str, first: int) -> tuple[str, str]:
        """The first so many channels, and the rest."""
        return self.cut(x, 0, first, axis=1), self.cut(x, first, ALL, axis=1)

    def linear(self, x: str, weight: Tensor, bias: Tensor | None = None) -> str:
        """A matrix (O, I) applied to the channels of a sequence."""
        return self("Conv", x, weight.unsqueeze(2), *([] if bias is None else [bias]))

    def scan(self, body: Callable[..., list[str]], states: Sequence[Value], over: Sequence[Value]) -> list[str]:
        """`body(graph, *states, *elements)` gives the next states and a result for each element along the first axes.

        Returns the last states and all results, in float64. What the body reads comes in as a state or an element,
        since some engines let it see nothing else.
        """
        from onnx import TensorProto, helper

        inner, names = Graph(self.numbers), [f"scan_{next(self.numbers)}" for _ in (*states, *over)]
        made = body(inner, *names)
        graph = inner.finished("body", dict.fromkeys(names), dict.fromkeys(made), kind=TensorProto.DOUBLE)
        inputs, outputs = [self._named(value) for value in (*states, *over)], [f"{name}_all" for name in made]
        self.nodes.append(helper.make_node("Scan", inputs, outputs, body=graph, num_scan_inputs=len(over)))
        return outputs

    def finished(self, name: str, inputs: dict[str, Any], outputs: dict[str, Any], *, kind: int = 1) -> Any:
        """ONNX's graph, inputs and outputs being of the shapes given and, unless another kind is, float32."""
        from onnx import helper

        sides = [[helper.make_tensor_value_info(n, kind, s) for n, s in side.items()] for side in (inputs, outputs)]
        return helper.make_graph(self.nodes, name, *sides, initializer=self.constants)
