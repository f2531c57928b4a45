# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a disk is freed, in words and commands that a hostile name cannot bend."""

import pytest

from libvirt_hooks.snapshot import (
    Backing,
    Block,
    Export,
    Handle,
    Mount,
    Process,
    Snapshot,
    printable,
)
from libvirt_hooks.usage import Use, is_root, listed, remedy, uses

from .hosts import BDF, DISK, LOOP, P2, ZFS, held, host, lvm


@pytest.mark.parametrize(
    ("dm_name", "group"),
    [
        pytest.param("vg0-root", "vg0", id="plain"),
        pytest.param("my--vg-root--a", "my-vg", id="hyphens are doubled"),
        pytest.param("vg---root", "vg-", id="a hyphen at the end"),
        pytest.param("vg0-pool_tmeta", "vg0", id="a part of a pool"),
    ],
)
def test_the_group_of_a_volume(dm_name: str, group: str) -> None:
    snapshot = host(held(P2, "dm-0"), lvm("dm-0", "253:0", dm_name))
    assert remedy(uses(snapshot, BDF)) == f"vgchange -an {group}"


HOSTILE = "/mnt/a\nroot@sda1:/\x1b[2J\u202e\x85"
DISK_OF_IT = DISK._replace(partitions=(HOSTILE,))


@pytest.mark.parametrize(
    "snapshot",
    [
        pytest.param(host(Mount("259:2", HOSTILE, "ext4")), id="mount point"),
        pytest.param(host(Mount("259:2", "/a", "ext4", namespace=Process(1, HOSTILE))), id="comm"),
        pytest.param(host(Handle("259:2", True, HOSTILE, Process(2, HOSTILE))), id="open"),
        pytest.param(host(held(P2, "dm-0"), Block("dm-0", "", dm_name=HOSTILE)), id="dm name"),
        pytest.param(host(held(P2, "dm-0"), lvm("dm-0", "", HOSTILE)), id="volume"),
        pytest.param(host(ZFS._replace(fs_label=HOSTILE)), id="label"),
        pytest.param(host(ZFS._replace(fs_type=HOSTILE + "_member")), id="type"),
        pytest.param(host(LOOP._replace(backing=Backing(HOSTILE, "259:2"))), id="backing file"),
        pytest.param(host(Export(HOSTILE, "1", Backing("/dev/x", "259:2"))), id="subsystem"),
        pytest.param(host(Backing(HOSTILE, "259:2")), id="swap"),
        pytest.param(host(held(P2, "md" + HOSTILE)), id="array"),
        pytest.param(host(held(P2, HOSTILE)), id="holder"),
        pytest.param(host(P2._replace(name=HOSTILE, bcache="cache"), DISK_OF_IT), id="partition"),
    ],
)
def test_a_name_forges_no_line(snapshot: Snapshot) -> None:
    found = uses(snapshot, BDF, ("nvme0n1",))
    assert found
    assert listed(found).isprintable()
    assert remedy(found).isprintable()


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain é", "plain é"),
        ("a\nb", "a\\x0ab"),
        ("\udcff", "\\xff"),
        ("\u2028", "\\u2028"),
    ],
)
def test_printable(raw: str, shown: str) -> None:
    assert printable(raw) == shown


@pytest.mark.parametrize(
    ("point", "command"),
    [
        pytest.param("/mnt/a b", "umount '/mnt/a b'", id="a space"),
        pytest.param("/mnt/;reboot", "umount '/mnt/;reboot'", id="a command"),
        pytest.param("/it's", r"umount '/it'\''s'", id="a quote"),
        pytest.param("/a\n'\\", r"umount $'/a\x0a\'\\'", id="a newline"),
    ],
)
def test_a_remedy_can_be_pasted(point: str, command: str) -> None:
    assert remedy(uses(host(Mount("259:2", point, "ext4")), BDF)) == command


MANY = host(*(Mount("259:2", f"/srv/volume-{number:02}", "ext4") for number in range(20)))


def test_a_long_list_is_cut() -> None:
    found = uses(MANY, BDF)
    assert listed(found).startswith("mount@nvme0n1p2:/srv/volume-00, ")
    assert listed(found).endswith("volume-07 and 12 more")
    assert listed(found[:8]).endswith("volume-06, mount@nvme0n1p2:/srv/volume-07")
    assert remedy(found).endswith("umount /srv/volume-14, and 14 more steps")
    assert len(remedy(found)) <= 200


def test_a_long_name_is_cut() -> None:
    found = uses(host(Mount("259:2", "/" + "x" * 4000, "ext4")), BDF)
    assert len(listed(found)) < 200
    assert len(remedy(found)) == 200
    assert remedy(found).endswith("…")


def test_no_use_no_words() -> None:
    assert (listed(()), remedy(()), is_root(())) == ("", "", False)


def test_a_use_prints_as_kind_and_object() -> None:
    assert str(Use("mount", "nvme0n1p2:/home")) == "mount@nvme0n1p2:/home"
