"""Files of `torch.save`, old and new, as plain values and tensors."""

import mmap
import re
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch
from jaxtyping import UInt8
from torch import Tensor

from wavegen.errors import WavegenError
from wavegen.interop.pickles import Forbidden, Machine, Storage, dtype_of

__all__ = ["read_tensors"]

MAGIC = 0x1950A86A20F9469CFC6C  # with which torch before 1.6 began


def read_tensors(path: Path | str) -> Any:
    """What `torch.save` wrote, of any version since 0.3: dict, list, tuple, numbers, str, tensors, and `Record`.

    Sets come as lists. Tensors may share the file's memory, which is read when they are.

    Raises:
        WavegenError: no such file, truncated, inconsistent, no checkpoint of torch, or one that asks for more than
            tensors and the modules of published vocoders.
    """
    if not Path(path).is_file():
        raise WavegenError(f"no checkpoint at {path}; check the path")
    try:
        with Path(path).open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # nothing is read before it is used
        return _read_zip(path, data) if data[:4] == b"PK\3\4" else _read_legacy(data)
    except Forbidden as error:
        raise WavegenError(
            f"{path} asks to {error}, expected only tensors and modules of torch; it was not loaded: "
            "get the file from a source you trust"
        ) from error
    except Exception as error:  # what a hostile file can break cannot be listed
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WavegenError(f"{path} is not a complete checkpoint of torch ({reason}); download it again") from error


def _read_zip(path: Path | str, data: mmap.mmap) -> Any:
    """The format since torch 1.6: an uncompressed zip of one pickle and a file for each storage."""
    with ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("two members of one name")
    (main,) = (name for name in members if re.fullmatch(r"([^/]*/)?data\.pkl", name))
    root = main.removesuffix("data.pkl")
    if f"{root}constants.pkl" in members:
        raise Forbidden("run a TorchScript program")

    def member(name: str) -> tuple[int, int]:
        """Where a member's bytes begin and end in the file."""
        info = members[name]
        header = data[info.header_offset : info.header_offset + 30]
        begin = info.header_offset + 30 + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        if info.compress_type != ZIP_STORED or header[:4] != b"PK\3\4" or begin + info.file_size > len(data):
            raise ValueError(f"{name} is compressed or lies outside the file")
        return begin, begin + info.file_size

    if f"{root}byteorder" in members and data[slice(*member(f"{root}byteorder"))] != b"little":
        raise ValueError("its bytes are big-endian")

    def persistent(key: Any) -> Storage:
        kind, name, key, _, numel = key
        if kind != "storage" or not isinstance(key, str):
            raise ValueError("a reference to no storage")
        dtype, (begin, end) = dtype_of(name), member(f"{root}data/{key}")
        if begin % dtype.itemsize:
            raise ValueError("a storage at an odd place, where torch puts none")
        return Storage(_mapped(data, begin, end, numel * dtype.itemsize).view(dtype))

    return Machine(persistent, len(data)).run(BytesIO(data[slice(*member(main))]))


def _mapped(data: mmap.mmap, begin: int, end: int, length: Any) -> UInt8[Tensor, " length"]:
    """So many bytes of a part of the file."""
    if not 0 <= length <= end - begin:
        raise ValueError(f"a storage shorter than its tensors, {end - begin} bytes")
    return torch.frombuffer(data, dtype=torch.uint8, offset=begin, count=length) if length else torch.empty(0).byte()


def _read_legacy(data: mmap.mmap) -> Any:
    """The format before torch 1.6: pickles one after the other, then the storages."""
    storages: dict[str, Tensor] = {}
    room = len(data)

    def persistent(key: Any) -> Any:
        nonlocal room
        if key[0] == "module":
            return key[1]  # the class; its source follows, which is nobody's business
        kind, name, key, _, numel, view = key
        if kind != "storage" or not isinstance(key, str):
            raise ValueError("a reference to no storage")
        if key not in storages:
            room -= numel * dtype_of(name).itemsize
            if room < 0:
                raise ValueError(f"storages of more than the file's {len(data)} bytes")
            storages[key] = torch.empty(numel, dtype=dtype_of(name))
        _, begin, length = view or (None, 0, numel)
        if not 0 <= begin <= begin + length <= len(storages[key]):
            raise ValueError("a view beyond its storage")
        return Storage(storages[key][begin : begin + length])

    if data[:1] != b"\x80":
        raise ValueError("it does not begin as one")
    magic, version, system = (Machine(_nothing, 0).run(data) for _ in range(3))
    if (magic, version) != (MAGIC, 1001) or not system["little_endian"]:
        raise ValueError("it does not begin as one, or its bytes are big-endian")
    tree = Machine(persistent, len(data)).run(data)
    _fill(storages, data)
    return tree


def _fill(storages: dict[str, Tensor], data: mmap.mmap) -> None:
    """Read the numbers, which follow the pickle: the keys of the storages, then length and contents of each."""
    keys = Machine(_nothing, 0).run(data)
    if not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise ValueError("the storages are not those that the tensors need")
    for key in keys:
        values = storages[key]
        length, begin = int.from_bytes(data.read(8), "little"), data.tell()
        if length != len(values):
            raise ValueError(f"a storage of {length} numbers, not {len(values)}")
        values.view(torch.uint8).copy_(_mapped(data, begin, len(data), values.nbytes))
        data.seek(begin + values.nbytes)


def _nothing(key: Any) -> Any:
    raise ValueError("a storage where none belongs")
