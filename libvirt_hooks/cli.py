# SPDX-License-Identifier: LGPL-2.1-or-later
"""virt-nvme-reset, the command: its verbs. Exit status: 0 done, 1 refused or failed, 2 usage."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence

from . import __version__, admission, custody, journal, lifecycle, policy
from .bdf import Bdf
from .demo import demo
from .errors import DeviceBusy, HookError, Refused
from .host import Host
from .linux.host import LinuxHost
from .nvme import CLASS_NVME
from .observe import VFIO_PCI, number
from .quirks import find

IDENTIFIER = "virt-nvme-reset"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        match arguments.verb:
            case "demo":
                return demo(colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
            case "list":
                for line in _list(LinuxHost()):
                    print(line)
            case "reset":
                reset(LinuxHost(), arguments.bdf)
    except HookError as error:
        print(f"{IDENTIFIER}: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # The reader has seen enough; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=IDENTIFIER,
        description="Reset NVMe controllers that go to virtual machines, and never at the wrong"
        " moment. libvirt runs the hook by itself; this command is for looking and mending.",
    )
    parser.add_argument("--version", action="version", version=f"{IDENTIFIER} {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs.add_parser("demo", help="play a guest's life on simulated drives; touches nothing")
    verbs.add_parser("list", help="list this machine's NVMe controllers")
    reset_verb = verbs.add_parser(
        "reset",
        help="disable and reset an idle controller",
        description="Disable and reset a"
        " controller that nobody uses: on vfio-pci and not open, or without a driver.",
    )
    reset_verb.add_argument("bdf", metavar="BDF", type=_bdf, help="such as 0000:03:00.0 or 03:00.0")
    return parser


def _bdf(text: str) -> Bdf:
    try:
        return Bdf.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _list(host: Host) -> Iterator[str]:
    """One controller a line: address, ids, driver, who has it, reset_method, quirk."""
    owners = {bdf: owner.uuid for owner in journal.owners(host) for bdf in owner.bdfs}
    for bdf in host.functions():
        if number(host.read_attr(bdf, "class")) != CLASS_NVME:
            continue
        vendor, device = (number(host.read_attr(bdf, name)) for name in ("vendor", "device"))
        methods = (host.read_attr(bdf, "reset_method") or "none").replace(" ", ",") or "none"
        state = owners.get(bdf) or host.nvme_state(bdf) or "idle"
        quirk = find(vendor, device).name or "-"
        driver = host.driver(bdf) or "-"
        yield f"{bdf}  {vendor:04x}:{device:04x}  {driver:8}  {state:36}  {methods:14}  {quirk}"


def reset(host: Host, bdf: Bdf) -> None:
    """Bring an idle controller to pristine.

    :raises HookError: it is in use, or no allowed reset helped.
    """
    facts = lifecycle.gather(host, "", bdf, policy.load(host).deny)
    refused = admission.refusal(facts)
    if refused is not None:
        raise Refused(refused.message.replace("go to the guest", "be reset"), refused.hint)
    if facts.owner is not None:
        raise DeviceBusy(f"{bdf}: may not be reset: the guest with uuid {facts.owner} has it")
    if facts.driver not in (None, VFIO_PCI):
        raise DeviceBusy(
            f"{bdf}: may not be reset: driver is {facts.driver}, expected {VFIO_PCI} or none",
            hint=f"virsh nodedev-detach pci_{str(bdf).replace(':', '_').replace('.', '_')}",
        )
    outcome = host.each([bdf], lambda each: custody.clean(host, each), lifecycle.JOB_TIMEOUT)[bdf]
    if isinstance(outcome, HookError):
        raise outcome
    print(f"{bdf}: {outcome}")


if __name__ == "__main__":
    sys.exit(main())
