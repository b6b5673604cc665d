"""The processes of a run: who I am, which device is mine, and how we agree.

Gradients are averaged with one all-reduce of a flat buffer rather than by DistributedDataParallel: unused parameters,
accumulation and skipped steps then need no special case, and the gain of DDP, sending while the backward pass still
runs, is small next to the step of a network of a few million weights.
"""

import gc
import itertools
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from wavegen.errors import WavegenError

__all__ = ["Group", "joined"]

TIMEOUT = timedelta(minutes=30)  # longer than compiling, and than a preview made by the first process alone

_joins = itertools.count()


@dataclass(frozen=True)
class Group:
    """This process among `world` processes, and its device; alone, every method leaves things as they are."""

    rank: int
    world: int
    device: torch.device
    store: dist.Store | None = None

    def parts(self, batch: Mapping[str, Tensor], accumulate: int) -> list[dict[str, Tensor]]:
        """This process's items of a batch, in `accumulate` equal parts; items are dealt out like cards.

        Raises:
            WavegenError: the tensors differ in their number of items, or it cannot be shared equally.
        """
        sizes = {len(value) for value in batch.values() if value.ndim}
        shares = self.world * accumulate
        if len(sizes) != 1 or min(sizes) % shares or not min(sizes):
            raise WavegenError(
                f"got a batch of {sorted(sizes)} items, expected one number that divides among {self.world} processes "
                f"x {accumulate} parts; change the batch size or `accumulate`"
            )

        def dealt(value: Tensor, first: int) -> Tensor:
            return value[first::shares].contiguous() if value.ndim else value

        firsts = range(self.rank, shares, self.world)
        return [{name: dealt(value, first) for name, value in batch.items()} for first in firsts]

    def mean(self, values: Float[Tensor, " N"], *, step: int) -> Float[Tensor, " N"]:
        """The mean over the processes, in float64 on the CPU; it is not finite anywhere if it is not somewhere."""
        values = values.detach().to("cpu", torch.float64)
        if self.world > 1:
            self._together(lambda: dist.all_reduce(values), step)
            values /= self.world
        return values

    def largest(self, number: int, *, step: int) -> int:
        """The largest of the processes' numbers."""
        if self.world == 1:
            return number
        value = torch.tensor(number)
        self._together(lambda: dist.all_reduce(value, op=dist.ReduceOp.MAX), step)
        return int(value)

    def average_gradients(self, parameters: Sequence[Tensor], *, step: int) -> None:
        """Replace every gradient by its mean over the processes, bit for bit the same in each."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.world == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self._together(lambda: dist.all_reduce(flat), step)
        flat /= self.world
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def share(self, tensors: Sequence[Tensor], *, step: int) -> None:
        """Give every process the first one's tensors."""
        if self.world > 1:
            for tensor in tensors:
                self._together(lambda tensor=tensor: dist.broadcast(tensor.detach(), src=0), step)

    def part_ways(self) -> None:
        """Wait until all have finished.

        A barrier, which has no tensor of Python's: gloo's thread lets go of the tensors of its last task a little after
        the task is done, and aborts the process if the interpreter has begun to exit by then.
        """
        gc.collect()
        where = [self.device.index] if self.device.type == "cuda" else None
        self._together(lambda: dist.barrier(device_ids=where), None)

    def _together(self, act: Callable[[], object], step: int | None) -> None:
        """Act with all the others, and say who is missing when one does not come."""
        assert self.store is not None
        try:
            self.store.set(f"step/{self.rank}", "the end" if step is None else f"step {step}")
            act()
        except RuntimeError as error:  # what every backend raises for a lost peer or a timeout
            reason = str(error).splitlines()[0]
            raise WavegenError(
                f"rank {self.rank} of {self.world} on {socket.gethostname()} lost the others ({reason}); "
                f"they were last seen at {self._sightings(self.store)}, expected all within {TIMEOUT}; "
                "read the log of the one behind, then run the same command again to resume"
            ) from error

    def _sightings(self, store: dist.Store) -> str:
        seen = dict.fromkeys(range(self.world), "no step")
        with suppress(RuntimeError):  # the store goes when its host does
            for rank in seen:
                if store.check([f"step/{rank}"]):
                    seen[rank] = store.get(f"step/{rank}").decode()
        return ", ".join(f"rank {rank}: {where}" for rank, where in seen.items())


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group that torchrun's environment names (RANK, WORLD_SIZE, LOCAL_RANK), or this process alone.

    Raises:
        WavegenError: no such device, or the other processes do not come.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    mine = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    with torch.cuda.device(mine) if mine.type == "cuda" else nullcontext():
        if world == 1:
            yield Group(0, 1, mine)
            return
        group = _join(mine)
        try:
            yield group
            group.part_ways()
        finally:
            dist.destroy_process_group()


def _join(device: torch.device) -> Group:
    """Meet the others. Decisions go through gloo on the CPU, so that a lost process is an error and not a hang."""
    store, rank, world = next(dist.rendezvous("env://", timeout=TIMEOUT))
    store = dist.PrefixStore(f"wavegen-{next(_joins)}", store)  # a second fit must not meet the ghosts of the first
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=world, timeout=TIMEOUT
    )
    return Group(rank, world, device, store)


def _device(name: str, local_rank: int) -> torch.device:
    """The device called `name`; "auto" is a GPU where there is one; of several GPUs, that of the local rank."""
    gpu = torch.cuda.is_available()
    name = ("cuda" if gpu else "cpu") if name == "auto" else name
    try:
        device = torch.device(f"cuda:{local_rank}" if name == "cuda" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise WavegenError(f"got device={name!r}, which this machine does not have; use auto, cpu or cuda") from error
    return device
