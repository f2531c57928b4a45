# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the hook has written below /run, read by hand: a test's second opinion of ``journal``."""

from __future__ import annotations

import json
from typing import Any

from .hooks import STATE
from .rig import Rig


def owner_path(uuid: str) -> str:
    return f"{STATE}/owners/{uuid}"


def journal_path(bdf: str) -> str:
    return f"{STATE}/journal/{bdf}"


def owned(rig: Rig, uuid: str) -> list[str]:
    """The controllers of a guest by its record; none without one."""
    return list(_load(rig, owner_path(uuid)).get("bdfs", []))


def journaled(rig: Rig, bdf: str) -> dict[str, Any]:
    """What is to be put back on a controller."""
    return {name: said for name, said in _load(rig, journal_path(bdf)).items() if name != "boot_id"}


def dead(rig: Rig, bdf: str) -> str:
    """Why a controller has been given up; empty: it has not."""
    return str(_load(rig, f"{STATE}/dead/{bdf}").get("why", ""))


def stuck(rig: Rig, bdf: str) -> int:
    """The process that is in the kernel with a controller, 0 if none is."""
    return int(_load(rig, f"{STATE}/stuck/{bdf}").get("pid", 0))


def keeper(rig: Rig, uuid: str) -> int | None:
    """The process that a guest's keeper is, by its record."""
    found = _load(rig, f"{STATE}/keepers/{uuid}")
    return int(found["process"][0]) if found else None


def held(rig: Rig, uuid: str) -> list[str]:
    """What a guest's keeper holds, by its record."""
    return list(_load(rig, f"{STATE}/keepers/{uuid}").get("bdfs", []))


def _load(rig: Rig, path: str) -> dict[str, Any]:
    text = rig.run(["cat", path], check=False).stdout
    found: dict[str, Any] = json.loads(text) if text else {}
    return found
