# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a domain and an operation to an exit status: what one call of libvirt's qemu hook comes to.

Here errors become what libvirt understands: a status, one line on stderr, and the journal. stdout
stays empty, for libvirt would take it for the domain's XML (src/util/virhook.c, 9.0).
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from . import lifecycle, metrics
from .domain import Domain
from .errors import BadDomain, HookError
from .host import Host
from .snapshot import printable

log = logging.getLogger(__name__)

IDENTIFIER = "virt-nvme-reset"


def carry_out(
    operation: str, suboperation: str, domain: Domain | BadDomain, host: Host | None
) -> int:
    """Do what an operation asks for; return the exit status.

    :param domain: the guest, or why what came on stdin is none.
    :param host: another machine than this one.
    """
    handler = lifecycle.HANDLERS.get((operation, suboperation))
    if handler is None:
        return 0
    with _journal(operation, host) as fields:
        try:
            if isinstance(domain, BadDomain):
                raise domain
            fields["DOMAIN_UUID"] = domain.uuid
            _handle(handler, operation, domain, host)
            return 0
        except HookError as error:
            return _failed(operation, error)
        except Exception as error:
            log.error("internal error", exc_info=True)
            what = f"{type(error).__name__}: {error}"
            return _failed(operation, HookError(f"{IDENTIFIER}: internal error: {what}"))


def _handle(handler: lifecycle.Handler, operation: str, domain: Domain, host: Host | None) -> None:
    if host is None:
        from .linux.host import LinuxHost

        host = LinuxHost()
    may_refuse = operation in lifecycle.MAY_REFUSE
    # A policy that is broken must not be looked at for a guest that is not our business.
    ours = lifecycle.is_counted(host, domain)
    with metrics.measured(host, operation, may_refuse=may_refuse) if ours else nullcontext():
        handler(host, domain)


def _failed(operation: str, error: HookError) -> int:
    """Say what is wrong; only where libvirt asks us may that stop a guest."""
    log.error("%s failed: %s", operation, error.in_full)
    if operation not in lifecycle.MAY_REFUSE:
        return 0
    # None if it is closed; print() would then take stdout.
    if sys.stderr is not None:
        print(*_lines(error), sep="\n", file=sys.stderr, flush=True)
    return error.exit_status


def _lines(error: HookError) -> Iterator[str]:
    """What virsh shows the user: each thing on one line, whatever is in it."""
    yield printable(error.message)
    if error.hint:
        yield f"  hint: {printable(error.hint)}"


@contextmanager
def _journal(operation: str, host: Host | None) -> Iterator[dict[str, object]]:
    """Send the package's log to the journal for as long as this lasts; a simulation's nowhere."""
    package = logging.getLogger(__package__)
    if host is not None:
        yield {}
        return
    from .linux.journald import JournalHandler

    handler = JournalHandler({"OPERATION": operation})
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False
    try:
        yield handler.fields
    finally:
        package.removeHandler(handler)
        handler.close()
