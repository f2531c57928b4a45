# SPDX-License-Identifier: LGPL-2.1-or-later
"""Observation: the frozen facts about one controller. observe() reads, and changes nothing.

A register is read only where nobody else can be driving the controller and where it can answer:
awake, memory decode on. A sleeping function's registers lie (facts: kernel vfio-pci puts an idle
function into D3hot, drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_register_device, v6.1).
"""

from dataclasses import dataclass

from . import pci
from .attributes import NVME as NVME
from .attributes import VFIO_PCI as VFIO_PCI
from .attributes import ids as ids
from .attributes import is_open as is_open
from .attributes import number as number
from .bdf import Bdf
from .errors import RegistersUnreadable
from .host import Host
from .nvme import ACQ, AQA, ASQ, CAP, CC, CSTS, VS, ControllerState, controller_state
from .pci import ResetMethod
from .quirks import Quirk
from .registers import Register, read

DECODE_OFF = "memory decode is off"


@dataclass(frozen=True)
class RegisterValues:
    """What the registers read, all at one time."""

    cap: CAP
    vs: VS
    cc: CC
    csts: CSTS
    aqa: AQA
    asq: ASQ
    acq: ACQ

    @property
    def gone(self) -> bool:
        """Did nobody answer? CAP is never 0: CSS has a bit set (NVMe Base 2.0, 3.1.3.1).

        Zeros are what QEMU answers for a BAR that decodes nothing, and zeros look pristine.
        """
        return not self.cap or self.cap.all_ones or self.cc.all_ones or self.csts.all_ones

    @property
    def disabled(self) -> bool:
        """EN=0, SHN=00, RDY=0, SHST=00, CFS=0: no reset of any kind can hurt."""
        return not (self.cc.EN or self.cc.SHN or self.csts.RDY or self.csts.SHST or self.csts.CFS)

    @property
    def pristine(self) -> bool:
        """Disabled, and no trace of an earlier owner's admin queues."""
        return self.disabled and not (self.aqa or self.asq or self.acq)


@dataclass(frozen=True)
class Observation:
    """One controller at one moment."""

    bdf: Bdf
    vendor: int
    """The id the kernel read at enumeration, as ``device``: still right when the drive is dead."""
    device: int
    config_vendor: int
    """The id that configuration space answers now."""
    quirk: Quirk
    driver: str | None
    nvme_state: str | None
    """State of the host's NVMe controller on it, if there is one."""
    open: bool
    """vfio-pci has it, and somebody has it open."""
    power_state: str
    reset_methods: tuple[str, ...] | None
    """What ``reset_method`` says; None where the kernel has no such file."""
    offered: tuple[str, ...]
    """What ``reset_method`` said before any guard of ours: what may be used."""
    virtual_functions: int
    neighbours: tuple[Bdf, ...]
    """Every other function on the same bus: what a secondary bus reset would hit too."""
    port: Bdf | None
    """The bridge above it; None on a root bus."""
    slot: str | None
    """The hot-plug slot that it is in, if the slot's power can be switched."""
    registers: RegisterValues | None
    unreadable: str
    """Why there are no registers, in words; empty if there are."""

    @property
    def present(self) -> bool:
        """Does the kernel know such a function?"""
        return self.vendor != pci.NOBODY

    @property
    def live(self) -> bool:
        """The host's driver has it, and can use it."""
        return self.driver == NVME and self.nvme_state == "live"

    @property
    def gone(self) -> bool:
        """Configuration space or registers read all ones."""
        if self.config_vendor == pci.NOBODY:
            return True
        return self.registers is not None and self.registers.gone

    @property
    def state(self) -> ControllerState | None:
        """None where the registers could not be read."""
        if self.gone:
            return ControllerState.GONE
        if self.registers is None:
            return None
        return controller_state(self.registers.cc, self.registers.csts)

    @property
    def disabled(self) -> bool:
        """*Seen* to be disabled."""
        return self.registers is not None and not self.gone and self.registers.disabled

    @property
    def pristine(self) -> bool:
        """*Seen* to be pristine."""
        return self.disabled and self.registers is not None and self.registers.pristine

    def offers(self, method: ResetMethod) -> bool:
        """Does the kernel have *method* for this device, and has nobody ruled it out?"""
        return method in self.offered

    @property
    def evidence(self) -> str:
        """What an error says was seen: ``CC=0x00464061 CSTS=0x00000009 (RDY=1 CFS=0 SHST=2 …)``."""
        if not self.present:
            return "there is no such PCI function any more"
        if self.config_vendor == pci.NOBODY:
            return f"configuration space reads {self.config_vendor:#06x}"
        if self.registers is None:
            return f"registers not read ({self.unreadable})"
        if self.gone:
            values = (self.registers.cap, self.registers.cc, self.registers.csts)
            return "registers read " + " ".join(value.raw for value in values)
        return f"{self.registers.cc.raw} {self.registers.csts}"


def observe(
    host: Host, bdf: Bdf, quirk: Quirk, offered: str | None = None, kept_off: str = ""
) -> Observation:
    """Look at one controller; one that is not there is gone.

    :param offered: what ``reset_method`` said before a guard; None: what it says now.
    :param kept_off: why neither registers nor configuration space are to be read: the kernel has a
        reader of that wait for the end of a reset, 65 s of a dead drive (pci_wait_cfg, v6.1).
    :raises SysfsError: the kernel refused a read.
    """
    vendor = host.read_attr(bdf, "vendor")
    if vendor is None:
        return _absent(host, bdf, quirk)
    driver = host.driver(bdf)
    opened = is_open(host, bdf, driver)
    if kept_off:
        config_vendor, power_state = number(vendor), host.read_attr(bdf, "power_state") or "unknown"
    else:
        config_vendor = pci.word(host.read_config(bdf, pci.VENDOR_ID, 2))
        power_state = read_power_state(host, bdf)
    unreadable = kept_off or _why_unreadable(host, bdf, driver, opened, power_state)
    registers = None
    if config_vendor != pci.NOBODY and not unreadable:
        try:
            registers = read_registers(host, bdf)
        except RegistersUnreadable as error:
            unreadable = error.message.removeprefix(f"{bdf}: ")
    methods = host.read_attr(bdf, "reset_method")
    return Observation(
        bdf=bdf,
        vendor=number(vendor),
        device=number(host.read_attr(bdf, "device")),
        config_vendor=config_vendor,
        quirk=quirk,
        driver=driver,
        nvme_state=host.nvme_state(bdf) if driver == NVME else None,
        open=opened,
        power_state=power_state,
        reset_methods=None if methods is None else tuple(methods.split()),
        offered=tuple((offered if offered is not None else methods or "").split()),
        virtual_functions=host.virtual_functions(bdf),
        neighbours=tuple(host.neighbours(bdf)),
        port=host.port(bdf),
        slot=host.slot(bdf),
        registers=registers,
        unreadable=unreadable,
    )


def _absent(host: Host, bdf: Bdf, quirk: Quirk) -> Observation:
    return Observation(
        bdf=bdf,
        vendor=pci.NOBODY,
        device=pci.NOBODY,
        config_vendor=pci.NOBODY,
        quirk=quirk,
        driver=None,
        nvme_state=None,
        open=False,
        power_state="unknown",
        reset_methods=None,
        offered=(),
        virtual_functions=0,
        neighbours=tuple(host.neighbours(bdf)),
        port=None,
        slot=host.slot(bdf),
        registers=None,
        unreadable="there is no such PCI function any more",
    )


def read_power_state(host: Host, bdf: Bdf) -> str:
    """Return D0, D1, D2, D3hot or D3cold.

    The kernel keeps no state of a function without a driver and says ``unknown`` (v6.1,
    pci_device_remove): there PMCSR itself is asked.
    """
    state = host.read_attr(bdf, "power_state")
    if state is None or state == "unknown":
        return pci.power_state(host.read_config(bdf, 0, pci.HEADER_LENGTH))
    return state


def _why_unreadable(
    host: Host, bdf: Bdf, driver: str | None, opened: bool, power_state: str
) -> str:
    if driver not in (None, VFIO_PCI):
        return f"driver {driver} owns them"
    if opened:
        return "vfio has it open"
    if power_state != "D0":
        return f"asleep in {power_state}"
    command = pci.word(host.read_config(bdf, pci.COMMAND, 2))
    if not command & pci.COMMAND_MEMORY:
        return f"{DECODE_OFF}: COMMAND={command:#06x}"
    return ""


def read_registers(host: Host, bdf: Bdf) -> RegisterValues:
    """Read every register that says what state a controller is in.

    The rest is not asked of a controller whose CAP reads all ones.

    :raises RegistersUnreadable: BAR0 cannot be mapped.
    """
    with host.registers(bdf) as bar:
        cap = read(bar, CAP)
        if cap.all_ones:
            return GONE
        return RegisterValues(
            cap=cap,
            vs=read(bar, VS),
            cc=read(bar, CC),
            csts=read(bar, CSTS),
            aqa=read(bar, AQA),
            asq=read(bar, ASQ),
            acq=read(bar, ACQ),
        )


def _ones(register: type[Register]) -> int:
    return (1 << register.width) - 1


GONE = RegisterValues(
    CAP(_ones(CAP)),
    VS(_ones(VS)),
    CC(_ones(CC)),
    CSTS(_ones(CSTS)),
    AQA(_ones(AQA)),
    ASQ(_ones(ASQ)),
    ACQ(_ones(ACQ)),
)
"""Nobody answered."""
