"""Pickles of torch, read without running them.

A pickle is a program that may call anything, and that of a whole module asks for classes that only its authors have.
Here it is data: a machine of its own walks through the instructions, makes plain values and tensors, and keeps of
foreign objects only the name of their class and their state. It imports nothing, it calls nothing outside this file,
and what asks for more than the names listed here is refused.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pickletools import genops
from typing import Any

import torch
from torch import Tensor

__all__ = ["Forbidden", "Machine", "Record", "Storage", "dtype_of"]

MOST_AXES = 16
LONGEST = 1 << 22  # bytes of instructions; a checkpoint has under a million, its numbers lie elsewhere
DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.uint8,
}  # fmt: skip
STORAGE = re.compile(r"torch\.(cuda\.)?(\w+Storage)")
RECORDED = re.compile(r"(glow|glow_old|torch\.nn(\.\w+)*)\.\w+")  # classes that published checkpoints have objects of

Persistent = Callable[[Any], Any]  # what a persistent id, torch's reference to a storage, stands for


class Forbidden(Exception):
    """What a checkpoint must not ask for."""


@dataclass(frozen=True)
class Name:
    """Something in a module, named and no more."""

    text: str


@dataclass(eq=False)
class Record:
    """An object of a foreign class: the class's name, and the state that a copy of the object would have been given."""

    name: str
    state: Any = None


@dataclass(frozen=True, eq=False)
class Storage:
    """The memory that tensors are views of."""

    values: Tensor


def dtype_of(storage: Any) -> torch.dtype:
    """Of the numbers in a storage, by the name of its class."""
    return DTYPES[storage.text.rpartition(".")[2]]


def _fill(table: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
    for key, value in pairs:
        if not isinstance(table, dict) or not isinstance(key, str | int | float | None) or key in table:
            raise ValueError("a table with a key that is twice there, or neither text nor number")
        table[key] = value


class Machine:
    """What a pickle works on: a stack, marks in it, and a memo; `room` bounds the bytes of all tensors together."""

    def __init__(self, persistent: Persistent, room: int) -> None:
        self.persistent, self.room = persistent, room
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: Any) -> Any:
        """The value of the pickle that a binary stream is at, which is left behind it."""
        begin = stream.tell()
        for instruction, argument, position in genops(stream):
            if position is None or position - begin > LONGEST:
                raise ValueError(f"more than {LONGEST} bytes of instructions")
            if instruction.name in VALUES:
                self.stack.append(argument)
            elif instruction.name in INSTRUCTIONS:
                INSTRUCTIONS[instruction.name](self, argument)
            else:
                raise Forbidden(f"run the instruction {instruction.name}")
        return self.stack.pop()

    def make(self, kind: Callable[[], Any]) -> None:
        self.stack.append(kind())

    def take(self, count: int) -> list[Any]:
        """The last `count` values, which leave the stack."""
        if count > len(self.stack):
            raise ValueError("an empty stack")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def since_mark(self) -> list[Any]:
        return self.take(len(self.stack) - self.marks.pop())

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("items for what is no list")
        self.stack[-1].extend(values)

    def fill(self, values: list[Any]) -> None:
        _fill(self.stack[-1], zip(values[::2], values[1::2], strict=True))

    def name(self, module: Any, name: Any) -> None:
        """Name something of a module, if it is something that checkpoints name."""
        if not (isinstance(module, str) and isinstance(name, str)):  # what nests in itself could not even be printed
            raise Forbidden("use something without a name")
        text = f"{module}.{name}"
        storage = STORAGE.fullmatch(text)
        if text not in CALLS and not RECORDED.fullmatch(text) and not (storage and storage[2] in DTYPES):
            raise Forbidden(f"use {text:.100}")
        self.stack.append(Name(text))

    def call(self, function: Any, arguments: Any) -> None:
        text = function.text if isinstance(function, Name) else type(function).__name__
        if text not in CALLS:
            raise Forbidden(f"call {text}")
        self.stack.append(CALLS[text](self, *arguments))

    def new(self, kind: Any) -> None:
        if not (isinstance(kind, Name) and RECORDED.fullmatch(kind.text)):
            raise Forbidden(f"build an object of {getattr(kind, 'text', type(kind).__name__)}")
        self.stack.append(Record(kind.text))

    def build(self, state: Any) -> None:
        """Give an object its state; that of a table is torch's notes about versions."""
        if isinstance(self.stack[-1], Record):
            self.stack[-1].state = state
        elif not isinstance(self.stack[-1], dict):
            raise Forbidden(f"change a {type(self.stack[-1]).__name__}")

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        """A view of a storage, which must lie in it and not be larger than it."""
        axes = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= MOST_AXES
        numbers = (offset, *size, *stride) if axes else ()
        if not (isinstance(storage, Storage) and numbers and all(type(n) is int and 0 <= n < 1 << 62 for n in numbers)):
            raise TypeError("a tensor without a storage, or whose size is none")
        numel, room = prod(size), len(storage.values)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        self.room -= numel * storage.values.itemsize
        if numel and (last >= room or numel > room or self.room < 0):
            raise ValueError(f"a tensor of shape {tuple(size)} in a storage of {room} numbers")
        return storage.values.as_strided(size, stride, offset) if numel else storage.values.new_empty(size)


def _first(machine: Machine, value: Any, *_: Any) -> Any:
    return value


CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda machine: {},
    "torch._utils._rebuild_tensor": Machine.tensor,
    "torch._utils._rebuild_tensor_v2": Machine.tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch.nn.backends.thnn._get_thnn_function_backend": lambda machine: None,  # torch before 1.4, in every module
    "torch.Size": _first,
    "torch.device": _first,
    "numpy.core.multiarray.scalar": lambda machine, *_: None,  # a learning rate
    "numpy._core.multiarray.scalar": lambda machine, *_: None,
    "numpy.dtype": lambda machine, *_: {},
    "_codecs.encode": lambda machine, *_: None,
    "builtins.set": _first,
    "__builtin__.set": _first,
}

VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip

INSTRUCTIONS: dict[str, Callable[[Machine, Any], Any]] = {
    "PROTO": lambda m, version: None,
    "FRAME": lambda m, length: None,
    "STOP": lambda m, _: None,
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "EMPTY_DICT": lambda m, _: m.make(dict),
    "EMPTY_LIST": lambda m, _: m.make(list),
    "EMPTY_SET": lambda m, _: m.make(list),
    "EMPTY_TUPLE": lambda m, _: m.make(tuple),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.take(1),
    "POP_MARK": lambda m, _: m.since_mark(),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.take(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.take(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.take(3))),
    "FROZENSET": lambda m, _: m.stack.append(m.since_mark()),
    "APPEND": lambda m, _: m.extend(m.take(1)),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.since_mark()),
    "SETITEM": lambda m, _: m.fill(m.take(2)),
    "SETITEMS": lambda m, _: m.fill(m.since_mark()),
    "BINPUT": lambda m, index: m.memo.update({index: m.stack[-1]}),
    "LONG_BINPUT": lambda m, index: m.memo.update({index: m.stack[-1]}),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.stack[-1]}),
    "BINGET": lambda m, index: m.stack.append(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.stack.append(m.memo[index]),
    "GLOBAL": lambda m, text: m.name(*text.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.take(2)),
    "BINPERSID": lambda m, _: m.stack.append(m.persistent(*m.take(1))),
    "REDUCE": lambda m, _: m.call(*m.take(2)),
    "NEWOBJ": lambda m, _: m.new(m.take(2)[0]),
    "BUILD": lambda m, _: m.build(*m.take(1)),
}
