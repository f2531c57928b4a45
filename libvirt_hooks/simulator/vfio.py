# SPDX-License-Identifier: LGPL-2.1-or-later
"""vfio-pci and QEMU's use of it: bind, open, machine reset, close, and the resets in them.

Sources: kernel 6.1 drivers/vfio/pci/vfio_pci_core.c (vfio_pci_core_register_device,
vfio_pci_core_enable, vfio_pci_core_disable, vfio_pci_ioctl_reset, vfio_pci_dev_set_try_reset),
QEMU 7.2 hw/vfio/pci.c (vfio_pci_reset, vfio_pci_hot_reset_one); facts/kernel.md section 2.
"""

from errno import EAGAIN, EBUSY, EINVAL

from . import resets
from .device import PciDev, Vfio
from .function import COMMAND, INTX_DISABLE, MASTER

ENABLED = 0x0003  # I/O and memory space


def bind(dev: PciDev) -> None:
    """Bind vfio-pci: no reset; power/control becomes auto and the idle function sleeps."""
    dev.set_driver("vfio-pci")
    dev.vfio = Vfio()
    dev.note("driver=vfio-pci")
    dev.set_power("D0")
    dev.control = "auto"
    dev.idle()


def unbind(dev: PciDev) -> None:
    """Unbind vfio-pci; waits as long as a close is still running."""
    dev.clock.reach(dev.vfio.closing_until)
    dev.control = "on"
    dev.set_power("D0")


def open_device(dev: PciDev, user: str = "") -> int:
    """VFIO_GROUP_GET_DEVICE_FD: wakes, enables and resets; returns 0 or an errno.

    :param user: uuid of the guest whose QEMU opens it.
    """
    if dev.is_open:
        return EBUSY
    dev.note("vfio open", dev.trace.actor)
    dev.set_power("D0")
    command = (dev.function.word(COMMAND) | ENABLED) & ~MASTER
    dev.function.write_config(COMMAND, command.to_bytes(2, "little"))
    failed = resets.try_reset_function(dev)
    if failed == EAGAIN:
        dev.idle()
        return failed
    opens = dev.vfio.opens + 1
    dev.vfio = Vfio(references=1, user=user, opens=opens, reset_works=not failed)
    dev.enable_count = 1
    return 0


def machine_reset(dev: PciDev) -> int:
    """What QEMU does at start-up and at each reboot: VFIO_DEVICE_RESET, else a hot reset."""
    dev.note("VFIO_DEVICE_RESET", dev.trace.actor)
    failed = resets.try_reset_function(dev) if dev.vfio.reset_works else EINVAL
    return _hot_reset(dev) if failed else 0


def guest_flr(dev: PciDev) -> None:
    """The guest sets the FLR bit of its DEVCTL (vfio_exp_config_write); errors are ignored."""
    resets.try_reset_function(dev)


def dup(dev: PciDev) -> None:
    """Somebody else takes a duplicate of the open descriptor (pidfd_getfd)."""
    dev.vfio.references += 1


def close(dev: PciDev) -> None:
    """Close one descriptor. The last one resets: as reset_method says, else the whole bus."""
    dev.vfio.references -= 1
    if dev.vfio.references:
        dev.note("vfio close, not the last", dev.trace.actor)
        return
    dev.note("vfio close", dev.trace.actor)
    dev.function.write_config(COMMAND, INTX_DISABLE.to_bytes(2, "little"))
    needs_reset = True
    if dev.vfio.reset_works and not dev.lock_held:
        needs_reset = bool(resets.saved_and_disabled(dev, resets.reset_function_locked))
    dev.function.write_config(COMMAND, (0x0100 | ENABLED).to_bytes(2, "little"))
    dev.enable_count = 0
    if needs_reset and not dev.lock_held:
        _dev_set_try_reset(dev)
    dev.idle()


def _hot_reset(dev: PciDev) -> int:
    """VFIO_DEVICE_PCI_HOT_RESET: QEMU takes it only if the function is alone on its bus."""
    if dev.bdf.bus == 0 or dev.siblings:
        dev.note("hot reset refused", dev.trace.actor)
        return EINVAL
    return resets.reset_bus(dev)


def _dev_set_try_reset(dev: PciDev) -> None:
    """The escalation: a bus reset if vfio-pci has everything on the bus and nothing is open."""
    others = dev.siblings
    if dev.bdf.bus == 0 or any(each.driver != "vfio-pci" or each.is_open for each in others):
        return
    resets.reset_bus(dev)
