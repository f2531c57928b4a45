# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is foretold of a guest's life against what the simulator makes of it, the hook's and not."""

from itertools import pairwise

import pytest

from libvirt_hooks import policy
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.forecast import Fate, Moment, forecast
from libvirt_hooks.observe import ids, observe
from libvirt_hooks.policy import Close, GuardChoice
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import Life
from libvirt_hooks.simulator.models import ORDINARY, P3700, SM951, SM961, SM2262, Model

from .lives import called

ALONE, ROOT = Bdf.parse("0000:01:00.0"), Bdf.parse("0000:00:05.0")
BESIDE = "0000:01:00.1"
MODELS = [ORDINARY, SM951, SM961, P3700, SM2262]

RESETS = {"reset flr": "flr", "bus reset": "bus", "reset device_specific": "device_specific"}
KILLED = "FLR killed it"
BEGINS = {
    "vfio open": Moment.OPEN,
    "VFIO_DEVICE_RESET": Moment.REBOOT,
    "vfio close": Moment.CLOSE,
    "guest: hook stopped end": None,
    "reset=1": None,
}
"""With which event each moment begins; QEMU's machine reset at its start is one like any other.
What the hook resets itself is no part of it."""


def machine(
    bdf: Bdf, model: Model, beside: bool, guard: GuardChoice, close: Close = Close.GUARD
) -> SimHost:
    host = SimHost(policy=f'[drive."{bdf}"]\nguard = "{guard}"\nclose = "{close}"\n')
    host.add(bdf, model, beside=[BESIDE] if beside else [])
    return host


def foretold(host: SimHost, bdf: Bdf, hook: bool) -> tuple[Fate, ...]:
    known, names = policy.load(host), ids(host, bdf)
    seen = observe(host, bdf, known.quirk(bdf, *names))
    return forecast(seen, known.guard(bdf, *names), known.close(bdf, *names), hook)


def lived(host: SimHost, bdf: Bdf, hook: bool) -> list[tuple[Moment, list[str]]]:
    """Play a life; return what happened to the controller at each of its moments, in order."""
    life = Life(host, [(bdf, True)], called if hook else None)
    assert life.start()
    life.guest_reboot()
    life.guest_shutdown()
    return moments(host, bdf)


def moments(host: SimHost, bdf: Bdf) -> list[tuple[Moment, list[str]]]:
    """Cut the trace at the events that each moment begins with."""
    texts = [event.text for event in host.trace if event.bdf in (None, bdf)]
    cuts = [at for at, text in enumerate(texts) if text in BEGINS]
    found = []
    for begin, end in pairwise([*cuts, len(texts)]):
        moment = BEGINS[texts[begin]]
        if moment is not None:
            found.append((moment, texts[begin:end]))
    return found


def first_reset(texts: list[str]) -> str | None:
    """What the kernel began with: a method of its own ends in an FLR, too."""
    return next((RESETS[text] for text in texts if text in RESETS), None)


@pytest.mark.parametrize("close", Close)
@pytest.mark.parametrize("guard", GuardChoice)
@pytest.mark.parametrize(
    ("bdf", "beside"),
    [
        pytest.param(ALONE, False, id="alone"),
        pytest.param(ALONE, True, id="shared bus"),
        pytest.param(ROOT, False, id="root bus"),
    ],
)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.label)
@pytest.mark.parametrize("hook", [True, False], ids=["hook", "no hook"])
def test_a_life_is_as_foretold(
    model: Model, bdf: Bdf, beside: bool, guard: GuardChoice, close: Close, hook: bool
) -> None:
    host = machine(bdf, model, beside, guard, close)
    fates = {fate.moment: fate for fate in foretold(host, bdf, hook)}
    life = lived(host, bdf, hook)
    assert [moment for moment, _ in life] == ["open", "guest reboot", "guest reboot", "close"]
    for at, (moment, texts) in enumerate(life):
        fate = fates[moment]
        assert first_reset(texts) == fate.reset, moment
        # QEMU's first machine reset comes before a guest has enabled anything.
        may_kill = fate.why == "would kill it" and (moment, at) != (Moment.REBOOT, 1)
        assert (KILLED in texts) is may_kill, moment
        if may_kill:
            return  # nothing that comes then is as usual
    assert not host.function(bdf).frozen


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "shared bus"])
@pytest.mark.parametrize("methods", ["bus flr", "bus", "\n"])
@pytest.mark.parametrize("model", [ORDINARY, SM2262], ids=lambda model: model.label)
def test_what_somebody_else_has_set_counts(model: Model, methods: str, beside: bool) -> None:
    """The kernel takes ``bus`` only before the neighbour is there, and passes over it after."""
    host = machine(ALONE, model, beside=False, guard=GuardChoice.KEEP)
    host.write_attr(ALONE, "reset_method", methods)
    if beside:
        host.add(BESIDE)
    fates = {fate.moment: fate.reset for fate in foretold(host, ALONE, hook=True)}
    for moment, texts in lived(host, ALONE, hook=True):
        assert first_reset(texts) == fates[moment], moment


def test_what_was_cut() -> None:
    host = machine(ALONE, SM951, beside=False, guard=GuardChoice.AUTO)
    found = lived(host, ALONE, hook=False)
    opened = next(texts for moment, texts in found if moment is Moment.OPEN)
    assert opened[:4] == ["vfio open", "power_state=D0", "reset flr", KILLED]
