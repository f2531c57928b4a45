# SPDX-License-Identifier: LGPL-2.1-or-later
"""The way in from the gate (hooks/qemu.d/50-nvme-reset): is any of this our business?

Most guests with a host device have a GPU or a network card, and five calls a life. For them no
more is loaded than it takes to see that; what a call comes to is ``call``'s.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .domain import Domain, parse
from .errors import BadDomain

if TYPE_CHECKING:
    from .host import Host


def main(argv: Sequence[str], xml: bytes, host: "Host | None" = None) -> int:
    """Carry out one hook call; return the exit status.

    :param argv: script, domain name, operation, sub-operation, extra; fewer are no error.
    :param xml: the domain as libvirt gave it on stdin.
    :param host: another machine than this one.
    """
    domain = _read(xml)
    if host is None and isinstance(domain, Domain):
        from .linux.glance import concerns_us

        if not concerns_us(domain.uuid, domain.candidates):
            return 0
    from .call import carry_out

    operation, suboperation = (*argv[2:4], "", "")[:2]
    return carry_out(operation, suboperation, domain, host)


def _read(xml: bytes) -> Domain | BadDomain:
    try:
        return parse(xml)
    except BadDomain as error:
        return error
