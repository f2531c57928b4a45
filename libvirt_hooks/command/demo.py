# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset demo`: a guest's life on simulated drives."""

from argparse import Namespace

from .. import demo
from ..host import Host
from .output import is_colourful


def run(arguments: Namespace, host: Host) -> int:
    """Play it."""
    return demo.demo(colour=is_colourful())
