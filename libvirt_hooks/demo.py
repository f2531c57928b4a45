# SPDX-License-Identifier: LGPL-2.1-or-later
"""One guest's life on two simulated controllers, without the hook and with it, as a timeline.

The hook code, its argv and the XML on its stdin are those of a real libvirt; only the machine is
simulated. Here: which events a person wants to see, and in which words.
"""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TextIO

from . import hook
from .bdf import Bdf
from .keeper import Keeper
from .simulator.clock import Event
from .simulator.host import SimHost
from .simulator.life import Hook, Life, Verdict
from .simulator.models import ORDINARY, SM951

DRIVES = {Bdf.parse("0000:01:00.0"): SM951, Bdf.parse("0000:02:00.0"): ORDINARY}
LABELS = dict(zip(DRIVES, ("SM951", "ordinary"), strict=True))

BAD, GOOD, OURS, TITLE, PLAIN = "31", "32", "36", "1", ""
"""SGR parameters (ECMA-48, 8.3.117): red, green, cyan, bold."""


@dataclass(frozen=True)
class Words:
    """How to say what the simulator noted; *who* and *noted* are regular expressions."""

    who: str
    noted: str
    said: str
    colour: str = PLAIN


SAYINGS = (
    Words("libvirt", r"guest: (virsh start)", r"\1", TITLE),
    Words("libvirt", r"guest: hook (\w+) \w+", r"runs the hook: \1"),
    Words("libvirt", r"guest: QEMU does not end; going on without it", "gives QEMU up", BAD),
    Words("libvirt", r"guest: start failed: (.*)", r"\1", BAD),
    Words("guest", r"guest: (reboot|power off)", r"\1", TITLE),
    Words("nvme|guest", r"(CC=0x\w{4}4\w\w1)", r"shuts it down, leaves it enabled: \1"),
    Words("hook", r"power/control=on", "wakes it", OURS),
    Words("hook|keeper", r"(CC=0x\w{7}0)", r"clears CC.EN: \1", OURS),
    Words("hook", r"reset_method=bus", "guards it: reset_method=bus", OURS),
    Words("keeper", r"descriptor duplicated", "holds it, too", OURS),
    Words("keeper", r"reset_method=(flr)", r"lets vfio reset it: reset_method=\1", OURS),
    Words("hook|keeper", r"reset_method=(.*)", r"guard off: reset_method=\1", OURS),
    Words("keeper", r"vfio close", "closes it", OURS),
    Words("drive", r"CSTS.RDY=0", "disabled: CSTS.RDY=0"),
    Words("drive", r"FLR killed it", "KILLED BY THE FLR", BAD),
    Words("QEMU", r"vfio open", "opens it"),
    Words("QEMU", r"VFIO_DEVICE_RESET", "resets the machine"),
    Words("QEMU", r"vfio close", "closes it"),
    Words("QEMU", r"vfio close, not the last", "closes it; the keeper has it still"),
    Words("kernel", r"reset flr", "function-level reset"),
    Words("kernel", r"bus reset", "secondary bus reset"),
    Words("kernel", r"not ready 65535ms; giving up", "waited 65 s for it, in vain", BAD),
    Words("guest", r"guest has its NVMe", "has its NVMe", GOOD),
    Words("guest", r"guest sees no NVMe: all ones", "sees no NVMe: all ones", BAD),
    Words("nvme", r"nvme state=live", "the host has it back: live", GOOD),
    Words("nvme", r"(Removing after probe failure.*)", r"\1", BAD),
)
"""The first that fits speaks. An event that none fits is nothing a person asks for."""


@dataclass(frozen=True)
class Told:
    """What came of one life."""

    title: str
    verdicts: list[Verdict]
    lethal_resets: int
    seconds: float


def demo(out: TextIO = sys.stdout, colour: bool = False) -> int:
    """Play both lives; return 0 if the hook kept every drive alive, and had to."""
    paint = _painter(colour)
    without = _live("without the hook", None, out, paint)
    with_hook = _live("with the hook", _hook, out, paint)
    _print_verdict([without, with_hook], out, paint)
    saved = all(each.alive for each in with_hook.verdicts)
    return 0 if saved and not all(each.alive for each in without.verdicts) else 1


def _hook(argv: list[str], xml: bytes, host: SimHost) -> int:
    host.keeper = Keeper
    return hook.main(argv, xml, host)


def _live(title: str, called: Hook | None, out: TextIO, paint: Callable[[str, str], str]) -> Told:
    host = SimHost()
    for bdf, model in DRIVES.items():
        host.add(bdf, model)
    life = Life(host, [(bdf, True) for bdf in DRIVES], called)
    if life.start():
        life.guest_reboot()
        life.guest_shutdown()
    verdicts = life.verdicts()
    print("", paint(title.capitalize(), TITLE), sep="\n", file=out)
    for line in _timeline(host.trace, paint):
        print(line, file=out)
    killed = [event for event in host.trace if event.text == "FLR killed it"]
    return Told(title, verdicts, len(killed), host.monotonic())


def _timeline(events: list[Event], paint: Callable[[str, str], str]) -> Iterator[str]:
    for event in events:
        found = _say(event)
        if found is not None:
            said, colour = found
            label = LABELS[event.bdf] if event.bdf else ""
            if colour == TITLE:
                yield ""
            yield f"{event.seconds:9.3f} s  {event.who:8} {label:9} {paint(said, colour)}".rstrip()


def _say(event: Event) -> tuple[str, str] | None:
    for words in SAYINGS:
        noted = re.fullmatch(words.noted, event.text)
        if noted and re.fullmatch(words.who, event.who):
            return noted.expand(words.said), words.colour
    return None


def _print_verdict(lives: list[Told], out: TextIO, paint: Callable[[str, str], str]) -> None:
    heads = "".join(f"{f'{LABELS[bdf]} {bdf}':25}" for bdf in DRIVES)
    print("", paint(f"{'':18}{heads}lethal FLRs", TITLE), sep="\n", file=out)
    for life in lives:
        cells = [_cell(verdict, paint) for verdict in life.verdicts]
        print(f"{life.title:18}{''.join(cells)}{life.lethal_resets}", file=out)


def _cell(verdict: Verdict, paint: Callable[[str, str], str]) -> str:
    text = "alive, back on nvme" if verdict.alive else "DEAD until a reboot"
    return paint(f"{text:25}", GOOD if verdict.alive else BAD)


def _painter(colour: bool) -> Callable[[str, str], str]:
    def paint(text: str, parameter: str) -> str:
        return f"\x1b[{parameter}m{text}\x1b[0m" if colour and parameter else text

    return paint
