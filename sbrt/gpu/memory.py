"""Plans the memory of weights or a lane, checks the plan, and allocates it as one arena."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from ..errors import InvalidInputError

ALIGNED = 256  # bytes; vector loads of the kernels need this alignment
UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


@dataclass(frozen=True)
class Item:
    """One buffer of a plan. part: the group of buffers to which messages add its bytes. reserved:
    True if another allocator provides the buffer's memory."""

    part: str
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    reserved: bool = False

    @property
    def bytes(self) -> int:
        """Size of the buffer in bytes, rounded up to a multiple of ALIGNED."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return -(-size // ALIGNED) * ALIGNED


@dataclass
class MemoryPlan:
    """The memory that a model's weights or a lane's buffers will take. A plan allocates nothing."""

    owner: str
    items: list[Item] = field(default_factory=list)

    def add(self, part: str, name: str, shape: Iterable[int], dtype: torch.dtype) -> None:
        """Add a buffer; the name must be new."""
        self._put(Item(part, name, tuple(shape), dtype))

    def reserve(self, part: str, name: str, size: int) -> None:
        """Add `size` bytes to the plan that a library will allocate itself."""
        self._put(Item(part, name, (size,), torch.uint8, reserved=True))

    def _put(self, new: Item) -> None:
        if any(item.name == new.name for item in self.items):
            raise ValueError(f"memory: expected a new name but got {new.name} twice")
        self.items.append(new)

    @property
    def bytes(self) -> int:
        """Bytes of the whole plan."""
        return sum(item.bytes for item in self.items)

    def parts(self) -> dict[str, int]:
        """Return the bytes of each part, in the order in which the parts were added."""
        found: dict[str, int] = {}
        for item in self.items:
            found[item.part] = found.get(item.part, 0) + item.bytes
        return found

    def describe(self) -> str:
        """Return the plan in one line, for example `target lane: KV ring 1.0 GiB, activations 12.5
        MiB, in all 1.0 GiB`."""
        each = [f"{part} {readable(size)}" for part, size in self.parts().items()]
        return f"{self.owner}: {', '.join([*each, f'in all {readable(self.bytes)}'])}"

    def check(self, budget: int | None) -> None:
        """Raise InvalidInputError, one sentence, if the plan takes more than `budget` bytes. If
        `budget` is None, there is no limit."""
        if budget is not None and self.bytes > budget:
            raise InvalidInputError(
                f"memory: expected at most {readable(budget)}, got {self.describe()}"
            )


class Arena:
    """One allocation for all buffers of a plan that are not reserved. The buffers are views of the
    allocation, which is zeroed once."""

    def __init__(self, plan: MemoryPlan, device: torch.device, budget: int | None = None) -> None:
        plan.check(budget)
        self.plan = plan
        self._begin: dict[str, int] = {}
        at = 0
        for item in plan.items:
            if not item.reserved:
                self._begin[item.name] = at
                at += item.bytes
        self.memory = torch.zeros(at, dtype=torch.uint8, device=device)

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return the buffer with that name."""
        item = next(item for item in self.plan.items if item.name == name)
        size = math.prod(item.shape) * item.dtype.itemsize
        begin = self._begin[name]
        return self.memory[begin : begin + size].view(item.dtype).view(item.shape)

    def names(self, part: str) -> list[str]:
        """Return the names of the buffers of one part."""
        return [item.name for item in self.plan.items if item.part == part]


def readable(size: int) -> str:
    """Return `size` bytes as text with a unit, for example `1.5 GiB`."""
    for unit, name in UNITS:
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def budget_of(device: torch.device, given: int | None) -> int | None:
    """Return the largest number of bytes that a plan may take.

    It is `given` if that is not None. Otherwise it is nine tenths of the free memory of a CUDA
    device, or None on a CPU: no limit.
    """
    if given is not None or device.type != "cuda":
        return given
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * 0.9)


class _DeviceBytes:
    """Describes memory of a CUDA device so that torch can make a tensor of it."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 2,
        }


def words_at(address: int, count: int, device: torch.device) -> torch.Tensor:
    """Return a tensor int32 [count] over the memory at `address` on `device`. The memory belongs to
    another object, which keeps it alive."""
    return values_at(address, count, torch.int32, device)


def values_at(address: int, count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return a tensor [count] of `dtype` over the memory at `address` on `device`. The memory
    belongs to another object, which keeps it alive."""
    size = count * dtype.itemsize
    if device.type == "cuda":
        return torch.as_tensor(_DeviceBytes(address, size), device=device).view(dtype)
    return torch.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=dtype)
