# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the doctor judges: a machine at one moment, frozen. Nothing here reads anything.

``Machine`` is files and processes (gathered by ``linux.checkup``), ``Drive`` and ``Leftover`` are
what hooks have to do with (gathered by ``inventory``). Times are in seconds since 1970.
"""

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True)
class Entry:
    """What lies in the hooks' directory, links followed as libvirt does."""

    path: str
    regular: bool = True
    mode: int = 0o755
    owner: int = 0
    changed: float = 0.0
    """When the file, or a link to it, was last made, replaced, or made executable (ctime)."""
    target: str = ""
    """Where it really is; empty: there."""
    first_line: str = ""

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def runs(self) -> bool:
        """Does libvirt run it? virHookCheck() and virFileIsExecutable(), libvirt 9.0."""
        return self.regular and bool(self.mode & 0o111)


@dataclass(frozen=True)
class Daemon:
    """A libvirt daemon of root's that runs."""

    name: str
    pid: int
    ticks: int
    """Field 22 of /proc/PID/stat: names the process, with its pid."""
    started: float
    reloaded: float = 0.0
    """When it was last sent SIGHUP by systemd; 0: never."""
    supervised: bool = True
    """Has systemd started it? Then it knows of each reload but one by hand."""
    profile: str = ""
    """/proc/PID/attr/current: how AppArmor or SELinux confines it."""


@dataclass(frozen=True)
class Interpreter:
    """What the hook's first line runs."""

    path: str
    version: tuple[int, ...] = ()
    """Empty: it could not be asked."""
    lxml: bool = False
    error: str = ""


class Vfio(StrEnum):
    """How far vfio-pci is there."""

    LOADED = "loaded"
    LOADABLE = "loadable"
    ABSENT = "absent"


@dataclass(frozen=True)
class Confinement:
    """Security modules, as far as hooks feel them."""

    apparmor: bool = False
    selinux: str = ""
    """``enforcing``, ``permissive``, or empty: there is none."""
    labels: tuple[str, ...] = ()
    """What restorecon would change of our files, in its words."""
    hooks_unconfined: bool | None = None
    """The boolean virt_hooks_unconfined; None: the policy has no such."""


@dataclass(frozen=True)
class PolicyFile:
    """/etc/virt-nvme-reset.toml."""

    path: str
    there: bool = False
    untrusted: str = ""
    error: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Machine:
    """The machine and what is installed on it."""

    uid: int = 0
    kernel: str = ""
    functions: int = 0
    resettable: int = 0
    """Of the functions, those that have a reset_method."""
    iommu_groups: int = 0
    vfio_pci: Vfio = Vfio.LOADED
    lockdown: str = ""
    """``none``, ``integrity``, ``confidentiality``, or empty: this kernel knows none."""
    entries: tuple[Entry, ...] = ()
    """hooks/qemu, then all of hooks/qemu.d, in libvirt's order."""
    hook: str = ""
    """The path at which ours is to be."""
    packages: tuple[str, ...] = ()
    """Every directory that the hook would look for its package in and that has one, best first."""
    writable: tuple[str, ...] = ()
    """Of the hook, its package and the directories above, what others than root may change."""
    interpreter: Interpreter | None = None
    daemons: tuple[Daemon, ...] = ()
    installed_daemons: tuple[str, ...] = ()
    """Names of libvirt daemons whose programs are there, running or not."""
    readers: frozenset[tuple[int, int]] = frozenset()
    """Pid and start of daemons that knew hooks when `install` last replaced ours."""
    confinement: Confinement = field(default_factory=Confinement)
    policy: PolicyFile = PolicyFile("/etc/virt-nvme-reset.toml")
    udev_rule: str = ""
    """Where the offered rule is active, empty: nowhere."""


@dataclass(frozen=True)
class Drive:
    """An NVMe controller, as far as guests have to do with it."""

    bdf: str
    ids: str
    lethal: bool = False
    """Could an FLR kill it?"""
    kernel_knows: bool = False
    """The kernel has a reset of its own for it."""
    guarded: bool = True
    """reset_method lets no lethal reset through, or the policy wants it so."""
    guest: str | None = None
    """uuid of the guest that has it, ``?`` if it is one that no hook has seen."""
    wants_keeper: bool = False
    kept: bool = False
    hot_pluggable: bool = False


@dataclass(frozen=True)
class Leftover:
    """A record that belongs to nobody any more, in words, and what to do about it."""

    what: str
    advice: str


@dataclass(frozen=True)
class HostUse:
    """A drive in a guest's definition that the host uses."""

    guest: str
    bdf: str
    uses: str
    running: bool = False


@dataclass(frozen=True)
class Facts:
    """All of it."""

    machine: Machine
    drives: tuple[Drive, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    host_uses: tuple[HostUse, ...] | None = None
    """None: libvirt was not asked."""
