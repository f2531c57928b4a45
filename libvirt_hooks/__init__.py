# SPDX-License-Identifier: LGPL-2.1-or-later
"""virt-nvme-reset: a libvirt qemu hook that resets passed-through NVMe controllers safely."""

__version__ = "0.1.0"
