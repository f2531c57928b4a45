# SPDX-License-Identifier: LGPL-2.1-or-later
"""A controller by any of its names: ``03:00.0``, ``pci_0000_03_00_0``, ``nvme0``."""

import re

from ..bdf import Bdf
from ..errors import BadName
from ..host import Host

_NVME = re.compile(r"(?:/dev/)?(nvme\d+)(?:n\d+(?:p\d+)?)?", re.A)


def find(host: Host, text: str) -> Bdf:
    """Return the address of the controller that *text* names; whether it is there is not asked.

    :raises BadName: it names none.
    """
    found = _NVME.fullmatch(text)
    if found is None:
        try:
            return Bdf.parse(text)
        except ValueError as error:
            raise BadName(str(error), "virt-nvme-reset list shows every controller") from error
    bdf = host.controller(found[1])
    if bdf is None:
        raise BadName(
            f"{text}: no such controller on the host's nvme driver",
            "virt-nvme-reset list shows every controller",
        )
    return bdf
