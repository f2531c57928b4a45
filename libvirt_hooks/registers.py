# SPDX-License-Identifier: LGPL-2.1-or-later
"""Register, Field, flag(), read(), write(): registers as immutable integers with named fields.

Knows no device: tables are in ``nvme`` and ``pci``. A field is written as the specifications
print it, ``NAME = Field(msb, lsb, meaning)``, so that a table can be proof-read line by line.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

from .host import Registers

T = TypeVar("T")
R = TypeVar("R", bound="Register")


class Field(Generic[T]):
    """Bits *msb* to *lsb* of a register, read as *meaning* (``int``, ``bool`` or an IntEnum)."""

    def __init__(self, msb: int, lsb: int, meaning: Callable[[int], T]) -> None:
        self.lsb = lsb
        self.mask = (1 << (msb - lsb + 1)) - 1
        self.meaning = meaning

    def __set_name__(self, owner: type["Register"], name: str) -> None:
        self.name = f"{owner.__name__}.{name}"

    @overload
    def __get__(self, register: None, owner: type) -> Self: ...
    @overload
    def __get__(self, register: "Register", owner: type) -> T: ...
    def __get__(self, register: "Register | None", owner: type) -> Self | T:
        return self if register is None else self.meaning(self.extract(register))

    def extract(self, value: int) -> int:
        """Return the field's bits as a plain number."""
        return value >> self.lsb & self.mask

    def insert(self, into: int, value: int) -> int:
        """Return *into* with this field set to *value*.

        :raises ValueError: *value* is wider than the field. Never masked off.
        """
        if not 0 <= value <= self.mask:
            raise ValueError(f"{self.name}: {value:#x} does not fit {self.mask:#x}")
        return into & ~(self.mask << self.lsb) | value << self.lsb


def flag(bit: int) -> Field[bool]:
    """Return a field of one bit."""
    return Field(bit, bit, bool)


class Register(int):
    """The value of a register at byte *offset*, *width* bits wide (32 or 64)."""

    offset: ClassVar[int]
    width: ClassVar[int]

    def __init_subclass__(cls, *, offset: int, width: int = 32) -> None:
        cls.offset = offset
        cls.width = width

    def __new__(cls, value: int = 0) -> Self:
        if value >> cls.width:
            raise ValueError(f"{cls.__name__}: {value:#x} does not fit {cls.width} bits")
        return super().__new__(cls, value)

    @classmethod
    def fields(cls) -> dict[str, Field[Any]]:
        """The register's fields by name, in the order of its table."""
        return {name: field for name, field in vars(cls).items() if isinstance(field, Field)}

    @property
    def all_ones(self) -> bool:
        """What a read returns that nobody answered."""
        return self == (1 << self.width) - 1

    def replace(self, **values: int) -> Self:
        """Return a copy with the named fields changed and every other bit kept."""
        result = int(self)
        for name, value in values.items():
            result = self.fields()[name].insert(result, int(value))
        return type(self)(result)

    @property
    def raw(self) -> str:
        """``CSTS=0x00000009``."""
        return f"{type(self).__name__}={int(self):#0{self.width // 4 + 2}x}"

    def __str__(self) -> str:
        fields = " ".join(f"{name}={field.extract(self)}" for name, field in self.fields().items())
        return f"{self.raw} ({fields})" if fields else self.raw


def read(bar: Registers, register: type[R]) -> R:
    """Read one register: one 32-bit access, or two for a 64-bit register, low word first.

    Source: NVM Express over PCIe Transport 1.0, 3.1.2 (aligned 32-bit accesses are allowed for
    every register, 64-bit registers included).
    """
    words = range(0, register.width // 8, 4)
    return register(sum(bar.read32(register.offset + at) << 8 * at for at in words))


def write(bar: Registers, value: Register) -> None:
    """Write one 32-bit register with one access."""
    if value.width != 32:
        raise ValueError(f"{type(value).__name__}: a {value.width}-bit register is never written")
    bar.write32(value.offset, int(value))
