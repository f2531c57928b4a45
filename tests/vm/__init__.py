# SPDX-License-Identifier: LGPL-2.1-or-later
"""The real rig: a Debian with libvirtd under QEMU, and NVMe drives to pass through."""
