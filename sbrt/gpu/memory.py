"""The plan of a lane's memory, checked before anything is allocated, and the arena that follows
it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from ..errors import InvalidInputError

ALIGNED = 256  # bytes; vector loads of the kernels need it
UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


@dataclass(frozen=True)
class Item:
    """One buffer: its part of the whole, its name, shape and dtype. reserved: another allocator
    provides it."""

    part: str
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    reserved: bool = False

    @property
    def bytes(self) -> int:
        """Bytes that it takes, rounded up to the alignment of the next buffer."""
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
        """Count bytes that a library allocates itself."""
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
        """Bytes of each part, in order."""
        found: dict[str, int] = {}
        for item in self.items:
            found[item.part] = found.get(item.part, 0) + item.bytes
        return found

    def describe(self) -> str:
        """One line: `target lane: KV ring 1.0 GiB, activations 12.5 MiB, in all 1.0 GiB`."""
        each = [f"{part} {readable(size)}" for part, size in self.parts().items()]
        return f"{self.owner}: {', '.join([*each, f'in all {readable(self.bytes)}'])}"

    def check(self, budget: int | None) -> None:
        """Raise InvalidInputError, one sentence, if the plan takes more than `budget` bytes; None:
        no limit."""
        if budget is not None and self.bytes > budget:
            raise InvalidInputError(
                f"memory: expected at most {readable(budget)}, got {self.describe()}"
            )


class Arena:
    """One allocation for the buffers that a plan does not reserve. They are views into it, zeroed
    once."""

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
        """The buffer of that name."""
        item = next(item for item in self.plan.items if item.name == name)
        size = math.prod(item.shape) * item.dtype.itemsize
        begin = self._begin[name]
        return self.memory[begin : begin + size].view(item.dtype).view(item.shape)

    def names(self, part: str) -> list[str]:
        """Names of the buffers of one part."""
        return [item.name for item in self.plan.items if item.part == part]


def readable(size: int) -> str:
    """Bytes with a unit."""
    for unit, name in UNITS:
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def budget_of(device: torch.device, given: int | None) -> int | None:
    """Bytes that a plan may take: the given number, else nine tenths of the free memory of a CUDA
    device."""
    if given is not None or device.type != "cuda":
        return given
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * 0.9)


class _DeviceBytes:
    """Memory of a CUDA device by its address, in the form that torch accepts."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 2,
        }


def words_at(address: int, count: int, device: torch.device) -> torch.Tensor:
    """int32 [count] over memory on `device` that another object owns and keeps alive."""
    return values_at(address, count, torch.int32, device)


def values_at(address: int, count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[count] of another dtype, over such memory."""
    size = count * dtype.itemsize
    if device.type == "cuda":
        return torch.as_tensor(_DeviceBytes(address, size), device=device).view(dtype)
    return torch.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=dtype)
