# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest's life holds for one controller, operation by operation, in words. Pure.

Nothing is decided here: what the hook does is ``intent``'s, what refuses is ``admission``'s, which
resets vfio does is ``forecast``'s. Here is how a controller will be found by each of them, which
nobody can see yet: libvirt puts it on vfio-pci, QEMU opens it, vfio's last close resets it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .admission import Facts, refusal
from .custody import refuses
from .forecast import Fate, Moment, forecast
from .guard import guards
from .intent import GOALS, intents
from .nvme import ACQ, AQA, ASQ, CC, CSTS
from .observe import NVME, VFIO_PCI, Observation, RegisterValues
from .policy import Close, GuardChoice, Mode, Policy

HOOK, VFIO = "hook", "vfio"
NOTHING = ["change nothing"]
"""As ``intents`` says it."""


@dataclass(frozen=True)
class Part:
    """One moment in the life of a controller."""

    moment: str
    """libvirt's operation, or one of ``forecast``'s moments."""
    by: str
    does: list[str]
    reset: str | None = None
    """vfio's; None: it does none, or it is not its moment."""
    safe: bool | None = None
    """Is that reset?"""


@dataclass(frozen=True)
class Prospect:
    """What the outlook is made of, besides what is seen of the controller."""

    policy: Policy
    managed: bool
    facts: Facts | None
    """None: the guest runs, nobody asks whether it may have it."""
    left: bool = False
    """A hook that died has left something to put back."""
    taken: bool = False
    """Of a guest that runs: a hook has seen its start, and will give this back in any mode."""
    held: bool = False
    """Of a guest that runs: its keeper has it, too."""

    @property
    def running(self) -> bool:
        return self.facts is None


def outlook(seen: Observation, prospect: Prospect) -> list[Part]:
    """Return each moment in order; for a guest that runs, those that are still to come."""
    return list(_Outlook(seen, prospect).parts())


def is_back_with_host(seen: Observation, prospect: Prospect) -> bool:
    """Does libvirt give it back to the host's driver? What it found on vfio-pci stays there.

    Of a guest that runs only libvirt knows where it has found it: mostly with the host.
    """
    return prospect.managed and (prospect.running or seen.driver != VFIO_PCI)


class _Outlook:
    # One controller under one policy; each method is one state in which it will be found.

    def __init__(self, seen: Observation, prospect: Prospect) -> None:
        named = (seen.bdf, seen.vendor, seen.device)
        self._policy = prospect.policy
        self._choice: GuardChoice = prospect.policy.guard(*named)
        self._close: Close | None = prospect.policy.close(*named)
        self._prospect = prospect
        mode = prospect.policy.mode
        self._taken = prospect.taken if prospect.running else mode is Mode.ENFORCE
        # A dead hook's guard is off before anything else is done.
        as_it_is = seen.reset_methods is None or prospect.running
        self._seen = seen if as_it_is else replace(seen, reset_methods=seen.offered)
        close = None if prospect.running and not prospect.held else self._close
        fates = forecast(self._seen, self._choice, close, self._taken)
        self._fates = {fate.moment: fate for fate in fates}

    def parts(self) -> Iterator[Part]:
        facts = self._prospect.facts
        if facts is not None:
            yield Part("prepare", HOOK, list(self._prepare(facts)))
            if self._seen.gone and self._taken and facts.is_idle:
                return  # refused here, or at `start`
            yield self._start(self._detached(facts))
            if self._seen.gone and self._taken:
                return
            yield from self._reset(Moment.OPEN)
            yield self._part("started", self._opened())
        yield from self._reset(Moment.REBOOT)
        yield from self._reset(Moment.CLOSE)
        yield from self._afterwards()
        yield self._part("reconnect", self._opened())

    def _start(self, seen: Observation) -> Part:
        part = self._part("start", seen)
        if not self._taken or seen.gone:
            return part
        does = [each for each in part.does if each not in NOTHING]
        sure = [f"see that it is {GOALS['start'].value}"] if seen.disabled else []
        return replace(part, does=[*sure, *does, self._on_failure()])

    def _part(self, operation: str, seen: Observation) -> Part:
        """What the hook does in *operation* of what it finds as *seen*."""
        if self._policy.mode is Mode.OFF:
            return Part(operation, HOOK, ["nothing: mode is off"])
        does = intents(operation, seen, self._choice, self._close)
        if self._policy.mode is Mode.OBSERVE:
            return Part(operation, HOOK, [f"only say: {'; '.join(does)}"])
        if seen.gone:
            return Part(operation, HOOK, [])  # refused, with a better reason than is known here
        return Part(operation, HOOK, does)

    def _reset(self, moment: Moment) -> Iterator[Part]:
        fate = self._fates.get(moment)
        if fate is not None:
            yield Part(moment, VFIO, [fate.describe()], fate.reset, fate.safe)

    def _prepare(self, facts: Facts) -> Iterator[str]:
        if self._prospect.left:
            yield "put back what an earlier hook has left"
        refused = refusal(facts)
        if refused is None:
            driver = f"on {facts.driver}" if facts.driver else "without a driver"
            yield f"admitted: {driver}, used by nobody"
        elif self._taken or facts.is_root:
            return
        if facts.is_idle and self._policy.mode is not Mode.OFF:
            does = self._part("prepare", self._seen).does
            yield from does if does != NOTHING else ()

    def _on_failure(self) -> str:
        harmless = not self._seen.quirk.flr_lethal_while_enabled
        if refuses(self._policy.failed_disable, harmless):
            return "refuse the start if it cannot be disabled"
        return "go on if it cannot be disabled"

    def _detached(self, facts: Facts) -> Observation:
        """On vfio-pci, as libvirt leaves it: vfio-pci has put to sleep what it has bound."""
        if self._seen.driver != VFIO_PCI:
            return self._on_vfio("D3hot")
        cleaned = self._taken and facts.is_idle and self._seen.registers is not None
        return self._pristine(self._seen) if cleaned else self._seen

    def _opened(self) -> Observation:
        """QEMU has it open; in a life under the guard that is set by then."""
        opened = replace(self._on_vfio("D0"), open=True, unreadable="vfio has it open")
        guarded = self._taken and not self._prospect.running  # else it is seen what it says
        values = guards(opened, self._choice) if guarded else ()
        return replace(opened, reset_methods=tuple(values[0].split())) if values else opened

    def _closed(self) -> Observation:
        """QEMU is gone. What was woken at `start` stays awake until `stopped` is done with it."""
        return self._on_vfio("D0" if self._taken else "D3hot")

    def _on_vfio(self, power_state: str) -> Observation:
        asleep = f"asleep in {power_state}" if power_state != "D0" else ""
        return replace(
            self._seen,
            driver=VFIO_PCI,
            nvme_state=None,
            open=False,
            power_state=power_state,
            registers=None,
            unreadable=asleep,
        )

    def _pristine(self, seen: Observation) -> Observation:
        if seen.registers is None:
            return seen
        values = seen.registers
        clean = RegisterValues(values.cap, values.vs, CC(0), CSTS(0), AQA(0), ASQ(0), ACQ(0))
        return replace(seen, registers=clean)

    def _afterwards(self) -> Iterator[Part]:
        if not self._taken:
            for operation in ("stopped", "release"):
                unseen = Part(operation, HOOK, ["nothing: no hook has seen its start"])
                enforce = self._policy.mode is Mode.ENFORCE
                yield unseen if enforce else self._part(operation, self._closed())
            return
        yield Part("stopped", HOOK, list(self._stopped(self._fates.get(Moment.CLOSE))))
        if is_back_with_host(self._seen, self._prospect):
            does = f"wait until the host's {NVME} driver is live, recover it by every means if not"
        else:
            does = f"see that it is {GOALS['stopped'].value}, recover it by every means if not"
        yield Part("release", HOOK, [does, "forget its owner"])

    def _stopped(self, fate: Fate | None) -> Iterator[str]:
        """A reset by vfio does most of it, where there is one."""
        if self._seen.gone:
            yield "find that it does not answer"
            return
        (towards,) = intents("stopped", self._closed(), self._choice, self._close)
        was_reset = fate is not None and fate.reset is not None and fate.safe
        yield f"see that the reset was enough, else {towards}" if was_reset else towards
        guarded = guards(self._seen, self._choice)
        if guarded and tuple(guarded[0].split()) != self._seen.offered:
            yield f"put reset_method back to {' '.join(self._seen.offered)!r}"
