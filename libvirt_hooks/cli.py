# SPDX-License-Identifier: LGPL-2.1-or-later
"""virt-nvme-reset, the command: its verbs. Exit status: 0 done, 1 refused or failed, 2 usage."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence

from . import __version__, admission, custody, journal, keepers, marks, policy, recovery
from .bdf import Bdf
from .demo import demo
from .domain import Domain, parse
from .errors import BadDomain, BadPolicy, DeviceBusy, HookError
from .host import Host
from .linux import policy_file
from .linux.host import LinuxHost
from .nvme import CLASS_NVME
from .observe import VFIO_PCI, ids, number
from .operation import Operation, raise_first
from .policy import SILENT, Policy
from .survey import survey

IDENTIFIER = "virt-nvme-reset"
BDF_HELP = "such as 0000:03:00.0 or 03:00.0"


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
            case "show":
                print(_show(LinuxHost(), arguments.bdf))
            case "reset":
                print(reset(LinuxHost(), arguments.bdf))
            case "recover":
                return recover(LinuxHost(), arguments.bdf)
            case "config":
                for line in config(arguments.xml):
                    print(line)
    except HookError as error:
        _complain(error)
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
    show_verb = verbs.add_parser(
        "show",
        help="show all that is known of one controller, and what a guest's life does to it",
        description="Show all that is known of one controller, and which resets a guest's life"
        " holds for it. Wakes nothing and changes nothing.",
    )
    show_verb.add_argument("bdf", metavar="BDF", type=_bdf, help=BDF_HELP)
    reset_verb = verbs.add_parser(
        "reset",
        help="disable and reset an idle controller",
        description="Disable and reset a"
        " controller that nobody uses: on vfio-pci and not open, or without a driver.",
    )
    reset_verb.add_argument("bdf", metavar="BDF", type=_bdf, help=BDF_HELP)
    recover_verb = verbs.add_parser(
        "recover",
        help="undo what hooks have left behind; bring a controller back",
        description="Without BDF: undo what is left of guests that are gone and of hooks that died."
        " With BDF: bring one controller that nobody uses back, by every means there is.",
    )
    recover_verb.add_argument("bdf", metavar="BDF", type=_bdf, nargs="?", help=BDF_HELP)
    config_verb = verbs.add_parser(
        "config",
        help="print the policy that holds, and where each value is from",
        description=f"Print the policy that holds, and where each value is from: {policy.PATH},"
        " the metadata of a guest, or the default.",
    )
    config_verb.add_argument("--xml", metavar="FILE", help="a domain: what holds for this guest")
    return parser


def _bdf(text: str) -> Bdf:
    try:
        return Bdf.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _complain(error: HookError) -> None:
    print(f"{IDENTIFIER}: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {error.hint}", file=sys.stderr)


def _list(host: Host) -> Iterator[str]:
    """One controller a line: address, ids, driver, who has it, is it held, reset_method, quirk."""
    owners = {bdf: owner.uuid for owner in journal.owners(host) for bdf in owner.bdfs}
    held = {bdf for keeper in keepers.find_all(host) for bdf in keeper.bdfs}
    known = _policy(host)
    for bdf in host.functions():
        if number(host.read_attr(bdf, "class")) != CLASS_NVME:
            continue
        vendor, device = ids(host, bdf)
        methods = (host.read_attr(bdf, "reset_method") or "none").replace(" ", ",") or "none"
        given_up = "given up" if marks.dead(host, bdf) else None
        state = owners.get(bdf) or given_up or host.nvme_state(bdf) or "idle"
        quirk = known.quirk(bdf, vendor, device).name or "-"
        driver = host.driver(bdf) or "-"
        kept = "held" if bdf in held else "-"
        names = f"{bdf}  {vendor:04x}:{device:04x}  {driver:8}"
        yield f"{names}  {state:36}  {kept:4}  {methods:14}  {quirk}"


def _show(host: Host, bdf: Bdf) -> str:
    from .show import show

    return show(host, _policy(host), bdf)


def _policy(host: Host) -> Policy:
    """The policy, for what only looks: a broken one is told, and no reason not to look."""
    try:
        return policy.load(host)
    except BadPolicy as error:
        _complain(error)
        return Policy()


def reset(host: Host, bdf: Bdf) -> str:
    """Bring an idle controller to pristine.

    :raises HookError: it is in use, or no allowed reset helped.
    """
    operation = Operation.patient(host, policy.load(host), [bdf])
    (facts,) = survey(operation, "", [bdf])
    refused = admission.refusal(facts, "be reset")
    if refused is not None:
        raise refused
    if facts.owner is not None:
        raise DeviceBusy(f"{bdf}: may not be reset: the guest with uuid {facts.owner} has it")
    if facts.driver not in (None, VFIO_PCI):
        raise DeviceBusy(
            f"{bdf}: may not be reset: driver is {facts.driver}, expected {VFIO_PCI} or none",
            hint=f"virsh nodedev-detach {bdf.nodedev}",
        )
    results = operation.each([bdf], custody.clean)
    raise_first(results)
    return f"{bdf}: {results[bdf]}"


def recover(host: Host, bdf: Bdf | None) -> int:
    """Recover one controller, or all that is left over; return the exit status.

    :raises HookError: that one is in use, or nothing brought it back.
    """
    if bdf is not None:
        print(recovery.recover_one(host, policy.load(host), bdf))
        return 0
    status, idle = 0, True
    for told in recovery.recover_all(host, policy.load(host)):
        idle = False
        if isinstance(told, HookError):
            _complain(told)
            status = told.exit_status
        else:
            print(told)
    if idle:
        print("nothing is left over")
    return status


def config(xml: str | None) -> list[str]:
    """Return the lines that tell the policy, for all guests or for the one in the file *xml*.

    :raises HookError: the policy or the domain cannot be believed.
    """
    from .config import describe

    found = policy_file.examine()
    guest = SILENT
    if xml is not None:
        domain = _domain(xml)
        if domain.policy_error is not None:
            raise domain.policy_error
        guest = domain.policy
    return describe(found.text, guest, found.untrusted)


def _domain(path: str) -> Domain:
    try:
        with open(path, "rb") as file:
            return parse(file.read())
    except OSError as error:
        raise BadDomain(f"{path}: reading: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
