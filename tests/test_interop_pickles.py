"""Checkpoints of torch are read as torch reads them; nothing in them runs; what is broken is named in one sentence."""

import collections
import io
import os
import pickle
import random
import struct
import subprocess
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from wavegen.errors import WavegenError
from wavegen.interop import import_checkpoint, read_tensors

FORMATS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}
formats = pytest.mark.parametrize("settings", FORMATS.values(), ids=FORMATS)


def assert_same(ours, theirs):
    if isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype and ours.stride() == theirs.stride()
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert type(ours) is (tuple if isinstance(theirs, torch.Size) else type(theirs)) and len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
    else:
        assert ours == theirs and type(ours) is type(theirs)


@formats
def test_what_torch_saves_is_read_as_torch_reads_it(settings, tmp_path):
    torch.manual_seed(0)
    numbers = torch.randn(6, 4)
    kinds = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 2, 8)).sum().backward()
    optimizer.step()
    tree = {
        "kinds": {name: (10 * torch.randn(5)).to(getattr(torch, name)) for name in kinds},
        "views": [numbers, numbers.T, numbers[1:3, ::2], numbers[4], torch.tensor(3.5), torch.empty(0, 3)],
        "plain": (None, True, -1, 1 << 70, 2.5, "é", [1, [2, (3, ())]], {"a": {}, 5: "b"}, numbers.shape),
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameter": nn.Parameter(numbers).data,
    }
    torch.save(tree, tmp_path / "model.pt", **settings)
    assert_same(read_tensors(tmp_path / "model.pt"), torch.load(tmp_path / "model.pt", weights_only=True))


@formats
def test_a_learning_rate_that_numpy_made_stops_nobody(settings, tmp_path):
    """As r9y9's schedules leave it in the optimizer."""
    tree = {"weights": torch.ones(2), "optimizer": {"lr": np.float64(1e-3)}}
    torch.save(tree, tmp_path / "model.pt", **settings)
    assert torch.equal(read_tensors(tmp_path / "model.pt")["weights"], torch.ones(2))


class Asks:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def attacks(canary):
    """Objects whose unpickling leaves a file behind."""
    command = f"touch {canary}"
    return {
        "os.system": Asks(os.system, command),
        "eval": Asks(eval, f"open({str(canary)!r}, 'w')"),
        "exec": Asks(exec, f"open({str(canary)!r}, 'w')"),
        "open": Asks(open, str(canary), "w"),
        "subprocess": Asks(subprocess.check_call, ["touch", str(canary)]),
        "in a list": [1, {"a": Asks(os.system, command)}],
        "in a table": collections.OrderedDict(weight=Asks(os.system, command)),
        "as an argument": Asks(collections.OrderedDict, [("a", Asks(os.system, command))]),
        "as hooks of a tensor": {"weight": Asks(torch.Size, (Asks(os.system, command),))},
    }


def zipped(path, program, storage=b"", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data/0", storage)  # first, where its numbers begin at a multiple of four
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")


def legacy(path, program):
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    path.write_bytes(
        b"".join(pickle.dumps(value, protocol=2) for value in head) + program + pickle.dumps([], protocol=2)
    )


def bare(path, program):
    path.write_bytes(program)


@pytest.mark.parametrize("write", [zipped, legacy, bare])
@pytest.mark.parametrize("protocol", [2, 4])  # GLOBAL and STACK_GLOBAL
@pytest.mark.parametrize("attack", attacks(""))
def test_a_malicious_pickle_is_refused_with_its_reason_and_nothing_runs(write, protocol, attack, tmp_path):
    canary, file = tmp_path / "canary", tmp_path / "evil.pt"
    program = pickle.dumps(attacks(canary)[attack], protocol=protocol)
    try:
        pickle.loads(program)
    except TypeError:  # torch.Size of what os.system returned
        assert canary.exists()
    assert canary.exists(), "the attack itself does not work"
    canary.unlink()
    write(file, program)
    asks = r"asks to use (posix|builtins|__builtin__|io|subprocess|commands)\.\w+, expected only tensors.*trust"
    with pytest.raises(WavegenError, match=asks):
        import_checkpoint(file)
    assert not canary.exists()


DOUBLED = b")" + b"q\0h\0\x86" * 60  # a pair of what is a pair of what is ...: 2^60 things, if one went through them

HAND_MADE = {
    "an instance, as in protocol 0": b"\x80\x02(X\x04\0\0\0trueios\nsystem\n.",
    "an object, as in protocol 1": b"\x80\x02(ctorch\nSize\nX\x04\0\0\0trueo.",
    "a class to build from": b"\x80\x02csubprocess\nPopen\n)\x81.",
    "a class that a persistent id names": b"\x80\x02(X\x06\0\0\0modulecos\nsystem\nNNtQ.",
    "a module of torch's that is no class": b"\x80\x02ctorch.hub\nload\n)R.",
    "a name that leads out of torch": b"\x80\x04\x8c\x08torch.nn\x8c\x1amodules.os.system.__call__\x93)R.",
    "a class of torch's, called": b"\x80\x02ctorch.nn.modules.linear\nLinear\n)R.",
    "state for a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\0\0\0__code__Nsb.",
    "state for a class": b"\x80\x02ccollections\nOrderedDict\n}X\x0c\0\0\0__setstate__Nsb.",
    "a call of what is no function": b"\x80\x02X\x04\0\0\0true)R.",
    "a number in the place of a name": b"\x80\x04K\x01K\x02\x93.",
    "what cannot be printed in the place of a name": b"\x80\x02" + DOUBLED + b"N\x93.",
    "an extension code": b"\x80\x02\x82\x01.",
    "an object of a table": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
}


@pytest.mark.parametrize("program", HAND_MADE.values(), ids=HAND_MADE)
@pytest.mark.parametrize("write", [zipped, legacy])
def test_no_trick_of_the_format_gets_further(write, program, tmp_path):
    write(tmp_path / "evil.pt", program)
    with pytest.raises(WavegenError, match=r"asks to \w+ .*, expected only tensors"):
        read_tensors(tmp_path / "evil.pt")


def test_state_is_kept_and_given_to_nobody(tmp_path):
    """`__setstate__`, `__reduce__` and the like are words in a record."""
    name = b"ctorch.nn.modules.linear\nLinear\n"
    zipped(tmp_path / "a.pt", b"\x80\x02" + name + b")\x81}X\x0c\0\0\0__setstate__" + name + b"sb.")
    found = read_tensors(tmp_path / "a.pt")
    assert found.name == "torch.nn.modules.linear.Linear" and list(found.state) == ["__setstate__"]
    assert type(found).__name__ == "Record" and not hasattr(type(found), "__setstate__")


class Stored:
    """Stands for a storage of so many numbers."""

    def __init__(self, numel):
        self.numel = numel


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return ("storage", torch.FloatStorage, "0", "cpu", obj.numel) if isinstance(obj, Stored) else None


def program(tree):
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(tree)
    return stream.getvalue()


def view(offset=0, size=(2, 3), stride=(3, 1), numel=6):
    return Asks(torch._utils._rebuild_tensor_v2, Stored(numel), offset, size, stride, False, collections.OrderedDict())


SIX = struct.pack("<6f", *range(6))
SIZES = {
    "beyond the storage": view(offset=1),
    "a stride beyond the storage": view(stride=(30, 1)),
    "a negative offset": view(offset=-1),
    "a negative stride": view(stride=(-3, 1)),
    "a negative size": view(size=(-2, 3)),
    "more numbers than the storage has": view(size=(1 << 40, 1 << 20), stride=(0, 0)),
    "a storage longer than its file": view(numel=7),
    "a storage of negative length": view(numel=-1),
    "a storage of an astronomical length": view(numel=1 << 62, size=(1 << 61,), stride=(1,)),
    "sizes of a million axes": view(size=(1,) * 1_000_000, stride=(1,) * 1_000_000),
    "strides of another number": view(stride=(1,)),
    "sizes that are no numbers": view(size=("a", 2)),
    "a truth for a size": view(size=(True, 3)),
}


@pytest.mark.parametrize("tree", SIZES.values(), ids=SIZES)
def test_a_tensor_lies_in_its_storage(tree, tmp_path):
    zipped(tmp_path / "ok.pt", program(view()), SIX)
    assert torch.equal(read_tensors(tmp_path / "ok.pt"), torch.arange(6.0).view(2, 3))
    zipped(tmp_path / "bad.pt", program(tree), SIX)
    with pytest.raises(WavegenError, match="not a complete checkpoint"):
        read_tensors(tmp_path / "bad.pt")


DAMAGED = {
    "a deep nest": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"\x94.",
    "a nest as a key": b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"Ns.",
    "a memo of two thousand million": b"\x80\x02Nr\xff\xff\xff\x7fh\x01.",
    "what cannot be printed as a device": b"\x80\x02ctorch\ndevice\n" + DOUBLED + b"R.",
    "what cannot be printed as a storage": b"\x80\x02(" + DOUBLED + b"NNNNtQ.",
    "what cannot be printed": b"\x80\x02" + DOUBLED + b".",
    "text of many gigabytes": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x0fabc.",
    "a key twice": b"\x80\x02}(K\x01NK\x01Nu.",
    "an odd table": b"\x80\x02}(K\x01NK\x02u.",
    "an empty stack": b"\x80\x02\x85.",
    "no mark": b"\x80\x02t.",
    "an unknown instruction": b"\x80\x02\xff.",
    "no end": b"\x80\x02N",
    "items for a number": b"\x80\x02K\x01Na.",
    "a storage of no file": b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x009X\x03\0\0\0cpuK\x01tQ.",
}


@pytest.mark.parametrize("program", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("write", [zipped, legacy])
def test_what_no_torch_wrote_is_refused(write, program, tmp_path):
    write(tmp_path / "bad.pt", program)
    with pytest.raises(WavegenError, match="not a complete checkpoint|without named weights"):
        import_checkpoint(tmp_path / "bad.pt")


def test_tensors_together_are_no_larger_than_their_file(tmp_path):
    storage = Stored(10_000)
    size = (10_000,), (1,), False, collections.OrderedDict()
    views = [Asks(torch._utils._rebuild_tensor_v2, storage, 0, *size) for _ in range(10)]
    zipped(tmp_path / "bad.pt", program(views), bytes(40_000))
    with pytest.raises(WavegenError, match="not a complete checkpoint"):
        read_tensors(tmp_path / "bad.pt")


def test_too_many_instructions_are_not_waited_for(tmp_path):
    long = b"X\xff\xff\x1f\0" + bytes(0x1FFFFF)  # text of two million characters
    zipped(tmp_path / "bad.pt", b"\x80\x02" + 5 * long + b".")
    with pytest.raises(WavegenError, match="bytes of instructions"):
        read_tensors(tmp_path / "bad.pt")


def test_archives_that_are_not_torchs_are_refused(tmp_path):
    def refused(match):
        with pytest.raises(WavegenError, match=match):
            read_tensors(tmp_path / "bad.pt")

    zipped(tmp_path / "bad.pt", program(view()), SIX, zipfile.ZIP_DEFLATED)  # may unfold into anything
    refused("compressed")
    zipped(tmp_path / "bad.pt", program(view()), SIX)
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "bad.pt", "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
    refused("two members of one name")
    zipped(tmp_path / "bad.pt", program(view()), SIX)
    with zipfile.ZipFile(tmp_path / "bad.pt", "a") as archive:
        archive.writestr("archive/byteorder", "big")
    refused("big-endian")
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "bad.pt")
    refused("asks to run a TorchScript program")
    for content in (b"", b"PK\3\4", b"RIFF" + bytes(100), b"hello", bytes(1000)):
        (tmp_path / "bad.pt").write_bytes(content)
        refused("not a complete checkpoint|asks to")
    with pytest.raises(WavegenError, match="no checkpoint at"):
        read_tensors(tmp_path)


@formats
def test_a_file_cut_anywhere_or_with_bytes_changed_is_read_or_refused_and_no_more(settings, tmp_path):
    torch.manual_seed(0)
    torch.save({"state_dict": nn.Linear(3, 4).state_dict(), "step": 5}, tmp_path / "model.pt", **settings)
    whole, chance = (tmp_path / "model.pt").read_bytes(), random.Random(0)
    for cut in range(0, len(whole), 29):
        (tmp_path / "bad.pt").write_bytes(whole[:cut])
        with pytest.raises(WavegenError, match="not a complete checkpoint"):
            read_tensors(tmp_path / "bad.pt")
    refused = 0
    for _ in range(300):
        changed = bytearray(whole)
        changed[chance.randrange(len(whole) if settings else 900)] = chance.randrange(256)
        (tmp_path / "bad.pt").write_bytes(changed)
        try:
            import_checkpoint(tmp_path / "bad.pt")
        except WavegenError:
            refused += 1
    assert refused == 300  # a linear layer is none of the models that can be imported
