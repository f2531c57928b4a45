# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hostile and odd input: whatever comes, a clear refusal where one is allowed, else nothing at all.

The hook as libvirtd runs it, in mount namespaces of its own where /run or /sys is to be wrong; and
the readers of XML and records on whatever Hypothesis makes up.
"""

import json
import logging
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from libvirt_hooks import journal, lifecycle, marks, recovery
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.call import _lines
from libvirt_hooks.domain import parse
from libvirt_hooks.errors import BadDomain, BadRecord, HookError
from libvirt_hooks.policy import Policy
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.models import SM951

from . import tally
from .lives import BDF, OTHER, call, called, owned

ROOT = Path(__file__).parent.parent
GATE = str(ROOT / "hooks" / "qemu.d" / "50-nvme-reset")
UUID = "0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11"
NOWHERE = Bdf.parse("fffe:fe:1e.6")
ABSENT = (
    "fffe:fe:1e.6: may not go to the guest: there is no such PCI function\n"
    "  hint: look for its address with: lspci -D -d ::0108\n"
)
MAY_REFUSE = [("prepare", "begin"), ("start", "begin")]
MEGABYTE = 1 << 20

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the hook does nothing for a user")

Said = tuple[int, bytes, str]


def run(
    *arguments: bytes | str, xml: bytes = b"", before: Sequence[str] = (), gate: str = GATE
) -> Said:
    """One call; *before* is what runs the hook in turn, such as unshare."""
    tally.tried(tally.HOSTILE)
    result = subprocess.run(
        [*before, gate, *arguments],
        input=xml,
        capture_output=True,
        timeout=60,
        cwd="/",
        env={"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        check=False,
    )
    assert b"Traceback" not in result.stderr
    assert result.stdout == b""
    return result.returncode, result.stdout, result.stderr.decode()


def in_a_world_where(shell: str) -> list[str]:
    """A mount namespace of its own, changed by *shell*."""
    return ["unshare", "--mount", "sh", "-ec", f'{shell}; exec "$@"', "sh"]


def xml(operation: str = "prepare", bdf: Bdf = NOWHERE, *, disk: bool = True) -> bytes:
    return domain_xml("guest", UUID, [Assigned(bdf, disk=disk)], operation)


NAMES = [
    pytest.param(b"two\nlines", id="a newline"),
    pytest.param(b"../../etc/passwd", id="slashes"),
    pytest.param(b"x" * 4096, id="4 kB"),
    pytest.param(b"caf\xe9 \xff\xfe", id="not UTF-8"),
    pytest.param(b"\x1b[2J\x07", id="terminal commands"),
    pytest.param(b"", id="empty"),
    pytest.param(b"--help", id="an option"),
    pytest.param("\u202eevil\u2028".encode(), id="Unicode that turns lines round"),
]


@needs_root
@pytest.mark.parametrize("name", NAMES)
def test_a_domain_name_is_nobodys_business(name: bytes) -> None:
    assert run(name, "prepare", "begin", "-", xml=xml()) == (1, b"", ABSENT)
    assert run(name, "stopped", "end", "-", xml=xml("stopped")) == (0, b"", "")


DEEP = b"<a>" * 100_000
BOMB = (
    b"<!DOCTYPE domain [<!ENTITY a 'ha'>"
    + b"".join(b"<!ENTITY %c '&%c;&%c;&%c;&%c;'>" % (98 + n, *[97 + n] * 4) for n in range(20))
    + b"]><domain><name>&u;</name><hostdev/></domain>"
)
GOOD = xml()

XMLS = [
    pytest.param(b"hostdev", "not well-formed", id="no XML"),
    pytest.param(b"\x00hostdev", "not well-formed", id="a NUL"),
    pytest.param(b"<domain>hostdev\xff</domain>", "not well-formed", id="not UTF-8"),
    pytest.param(GOOD[: len(GOOD) // 2] + b"hostdev", "not well-formed", id="truncated"),
    pytest.param("<domain>hostdev</domain>".encode("utf-16"), "", id="UTF-16"),
    pytest.param(BOMB, "not well-formed", id="billion laughs: libxml2 itself ends it"),
    pytest.param(b"<!DOCTYPE domain>" + GOOD, "has a DOCTYPE", id="a DOCTYPE"),
    pytest.param(b"<domain>" + DEEP + b"hostdev", "not well-formed", id="100,000 levels"),
    pytest.param(b"<domain>" + b"<hostdev/>" * 10 + b"</domain>", "uuid", id="no uuid"),
    pytest.param(
        GOOD + b"<!--" + b"x" * 50 * MEGABYTE + b"-->", "too large", id="50 MB, well-formed"
    ),
    pytest.param(b"hostdev" * (50 * MEGABYTE // 7), "too large", id="50 MB of noise"),
    pytest.param(
        b"<domstatus>" + GOOD.strip() + b"</domstatus>", "root element", id="libvirt's status file"
    ),
]


@needs_root
@pytest.mark.parametrize("operation", lifecycle.HANDLERS, ids=" ".join)
@pytest.mark.parametrize(("data", "said"), XMLS)
def test_xml_that_no_libvirt_prints(data: bytes, said: str, operation: tuple[str, str]) -> None:
    status, _, told = run("guest", *operation, "-", xml=data)
    gated = b"hostdev" not in data and b"nvme" not in data
    if operation in MAY_REFUSE and not gated:
        assert status == 1
        assert told.startswith("domain XML: ") and said in told
        assert len(told) < 300
    else:
        assert (status, told) == (0, "")


@needs_root
@pytest.mark.parametrize("at", range(0, len(GOOD), 97))
def test_xml_cut_off_anywhere(at: int) -> None:
    tally.tried(tally.HOSTILE)
    assert called(["hook", "guest", "prepare", "begin"], GOOD[:at], SimHost()) == 1


WORLDS = [
    pytest.param(
        "mount -t tmpfs -o size=4k tmpfs /run; head -c 1M /dev/zero >/run/x 2>&- || :",
        id="a full /run",
    ),
    pytest.param("mount -t tmpfs -o ro tmpfs /run", id="a read-only /run"),
    pytest.param("mount -t tmpfs tmpfs /sys", id="no /sys"),
    pytest.param("mount -t tmpfs tmpfs /proc", id="no /proc"),
    pytest.param("mount -t tmpfs tmpfs /dev", id="an empty /dev"),
    pytest.param("mount -t tmpfs tmpfs /run; ln -s /etc /run/virt-nvme-reset", id="a planted link"),
    pytest.param(
        "mount -t tmpfs tmpfs /run; mkdir -m 777 /run/virt-nvme-reset", id="everybody's /run"
    ),
    pytest.param(
        "mount -t tmpfs tmpfs /run; mkdir -m 700 /run/virt-nvme-reset"
        "; ln -s /etc /run/virt-nvme-reset/owners; ln -s /etc /run/virt-nvme-reset/journal",
        id="planted links inside",
    ),
]


@needs_root
@pytest.mark.parametrize("operation", lifecycle.HANDLERS, ids=" ".join)
@pytest.mark.parametrize("world", WORLDS)
def test_a_world_that_is_not_as_it_should_be(world: str, operation: tuple[str, str]) -> None:
    """No drive is there, so nothing is done; that it is not, is said as well as it can be."""
    before = in_a_world_where(world)
    status, _, told = run("guest", *operation, "-", xml=xml(operation[0]), before=before)
    assert status == int(operation == ("prepare", "begin"))
    assert told == ABSENT or not status or "/run/virt-nvme-reset" in told
    assert len(told.splitlines()) <= 2


@needs_root
@pytest.mark.parametrize("call_", [("prepare", "begin"), ("release", "end")], ids=" ".join)
def test_not_root(call_: tuple[str, str]) -> None:
    before = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    # The checkout may be in a folder that nobody else may enter: the script comes by descriptor.
    with open(GATE, "rb") as gate:
        os.set_inheritable(gate.fileno(), True)
        result = subprocess.run(
            [*before, "/usr/bin/python3", "-IS", f"/dev/fd/{gate.fileno()}", "guest", *call_, "-"],
            input=xml(),
            capture_output=True,
            pass_fds=[gate.fileno()],
            check=False,
        )
    tally.tried(tally.HOSTILE)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


@pytest.mark.parametrize("broken", ["full", "read_only"])
def test_a_journal_that_cannot_be_written_keeps_the_hook_from_everything(broken: str) -> None:
    """What could not be put back is not done: the start is refused, with nothing touched."""
    tally.tried(tally.HOSTILE)
    for operation in ("prepare", "start"):
        host = SimHost()
        host.add(BDF, SM951, driver="vfio-pci")
        setattr(host.records, broken, True)
        assert call(host, operation, BDF) == 1
        assert host.texts() == []


@pytest.mark.parametrize("broken", ["full", "read_only"])
@pytest.mark.parametrize("operation", ["stopped", "release", "reconnect"])
def test_a_run_that_breaks_while_the_guest_runs_loses_nothing(broken: str, operation: str) -> None:
    tally.tried(tally.HOSTILE)
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    assert call(host, "start", BDF) == 0
    setattr(host.records, broken, True)
    assert call(host, operation, BDF) == 0
    setattr(host.records, broken, False)
    assert call(host, "stopped", BDF) == 0
    assert call(host, "release", BDF) == 0
    assert host.records.all == []
    assert host.read_attr(BDF, "reset_method") == "flr bus"
    assert host.read_attr(BDF, "power/control") == "auto"
    assert host.violations == []


RECORDS = [
    pytest.param(b'{"bdfs": ["../../../etc/passwd"], "since": 0}', id="a path"),
    pytest.param(b'{"bdfs": ["0000:01:00.0\\n"], "since": 0}', id="a newline behind it"),
    pytest.param(b'{"bdfs": ["\xd9\xa0000:01:00.0"], "since": 0}', id="Arabic digits"),
    pytest.param(b'{"bdfs": [1], "since": 0}', id="a number"),
    pytest.param(b'{"bdfs": {"0000:01:00.0": 1}}', id="no list, no time"),
    pytest.param(b'{"bdfs": ["0000:01:00.0"], "since": "x"}', id="no number of seconds"),
    pytest.param(b"[" * 100_000, id="100,000 brackets"),
    pytest.param(b"\xff\xfe", id="not UTF-8"),
    pytest.param(b"", id="empty"),
]


@pytest.mark.parametrize("data", RECORDS)
@pytest.mark.parametrize("operation", ["prepare", "start", "reconnect", "stopped", "release"])
def test_an_owner_record_of_another_guest_that_somebody_wrote(data: bytes, operation: str) -> None:
    tally.tried(tally.HOSTILE)
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    boot = host.boot_id().encode()
    host.records.store(journal.OWNERS, OTHER, data.replace(b"{", b'{"boot_id": "%s", ' % boot, 1))
    assert call(host, operation, BDF) == 0
    assert host.records.load(journal.OWNERS, OTHER) is not None
    assert host.violations == []


@pytest.mark.parametrize("folder", [journal.JOURNAL, marks.DEAD, marks.STUCK, journal.OWNERS])
@pytest.mark.parametrize("name", ["-rf", "0000:01:00.0.bak", "x" * 200, "\n", "0000:01:00.8"])
def test_a_record_with_a_name_that_is_no_controllers(folder: str, name: str) -> None:
    tally.tried(tally.HOSTILE)
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    host.records.store(folder, name, b'{"boot_id": "x"}')
    for operation in ("prepare", "start", "stopped", "release"):
        assert call(host, operation, BDF) == 0
    list(recovery.recover_all(host, Policy()))
    assert host.records.all == []  # it was of another boot


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
records = st.binary() | json_values.map(lambda value: json.dumps(value).encode())
owner_records = st.fixed_dictionaries(
    {}, optional={"bdfs": json_values, "since": json_values, "pid": json_values, "why": json_values}
)


@given(records | owner_records.map(lambda value: json.dumps(value).encode()), st.booleans())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_whatever_is_in_a_record_only_bad_record_is_raised(data: bytes, ours: bool) -> None:
    tally.tried(tally.HOSTILE)
    host = SimHost()
    if ours and data.startswith(b"{"):
        data = data.replace(b"{", b'{"boot_id": "%s", ' % host.boot_id().encode(), 1)
        data = data.replace(b", }", b"}")
    for folder, name in (
        (journal.OWNERS, UUID),
        (journal.JOURNAL, str(BDF)),
        (marks.DEAD, str(BDF)),
        (marks.STUCK, str(BDF)),
    ):
        host.records.store(folder, name, data)
    for read in (
        lambda: journal.owner(host, UUID),
        lambda: journal.Undo(host, BDF).original("reset_method"),
        lambda: marks.dead(host, BDF),
        lambda: marks.stuck(host, BDF),
    ):
        try:
            read()
        except BadRecord as error:
            assert error.message.isprintable()
    journal.owners(host)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A domain of libvirt's with pieces cut out, doubled, or replaced."""
    data = draw(st.sampled_from([GOOD, *(path.read_bytes() for path in SAMPLES)]))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        upto = min(len(data), at + draw(st.integers(0, 40)))
        put = draw(st.binary(max_size=12) | st.sampled_from(PIECES) | st.just(data[at:upto] * 2))
        data = data[:at] + put + data[upto:]
    return data


SAMPLES = sorted((ROOT / "tests" / "data").glob("*.xml"))
PIECES = [b"<hostdev", b"</hostdev>", b"'", b'"', b"&#10;", b"<![CDATA[", b"]]>", b"<metadata>"]


@given(damaged())
@settings(max_examples=400, deadline=None, derandomize=True)
@example(b"<domain><uuid>" + UUID.encode() + b"</uuid><devices><hostdev type='pci'/></devices>")
def test_whatever_is_on_stdin_only_bad_domain_is_raised(data: bytes) -> None:
    tally.tried(tally.HOSTILE)
    try:
        domain = parse(data)
    except BadDomain as error:
        assert error.message.isprintable()
        assert len(error.message) < 300
    else:
        assert re.fullmatch(r"[0-9a-f-]{36}", domain.uuid)


@given(st.text(min_size=1))
@settings(max_examples=100, deadline=None, derandomize=True)
@example("two\nlines")
@example("fake\n0000:01:00.0: pristine")
def test_no_line_of_an_error_can_be_forged(text: str) -> None:
    tally.tried(tally.HOSTILE)
    lines = list(_lines(HookError(text, hint=text)))
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


def test_nothing_that_is_logged_has_a_second_line(caplog: pytest.LogCaptureFixture) -> None:
    host = SimHost()
    host.add(BDF, SM951, mounted="/srv\n0000:01:00.0: pristine\x1b[2J")
    caplog.set_level(logging.INFO)
    assert call(host, "prepare", BDF) == 1
    assert len(caplog.messages) >= 1
    assert all(message.isprintable() for message in caplog.messages)
    assert owned(host, UUID) is None
