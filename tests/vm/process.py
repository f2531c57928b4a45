# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs inside the rig: tells what the kernel knows of one process, as one JSON object.

Source: proc(5).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def memory(process: Path) -> dict[str, int]:
    """In kB, by the kernel's names."""
    lines = (process / "smaps_rollup").read_text().splitlines()[1:]
    return {
        name: int(words.split()[0]) for name, _, words in (each.partition(":") for each in lines)
    }


def descriptors(process: Path) -> dict[str, str]:
    """What each one is, by its number; one that is closed meanwhile is none."""
    found = {}
    for link in (process / "fd").iterdir():
        try:
            found[link.name] = os.readlink(link)
        except FileNotFoundError:
            continue
    return found


def describe(pid: int) -> dict[str, Any]:
    process = Path(f"/proc/{pid}")
    return {
        "command": (process / "cmdline").read_text().split("\0")[:-1],
        "parent": int((process / "stat").read_text().rpartition(")")[2].split()[1]),
        "session": os.getsid(pid),
        "cwd": os.readlink(process / "cwd"),
        "descriptors": descriptors(process),
        "oom_score_adj": int((process / "oom_score_adj").read_text()),
        "private_dirty": memory(process)["Private_Dirty"],
        "label": (process / "attr" / "current").read_text().strip("\0\n"),
    }


if __name__ == "__main__":
    print(json.dumps(describe(int(sys.argv[1]))))
