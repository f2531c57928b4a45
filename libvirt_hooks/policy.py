# SPDX-License-Identifier: LGPL-2.1-or-later
"""The administrator's policy, /etc/virt-nvme-reset.toml: which controllers no guest may have.

    deny = ["0000:03:00.0"]

Read only for guests that have an NVMe controller: a broken file must not stop the others.
"""

import tomllib
from dataclasses import dataclass

from .bdf import Bdf
from .errors import BadPolicy
from .host import Host

PATH = "/etc/virt-nvme-reset.toml"


@dataclass(frozen=True)
class Policy:
    """What the administrator has decided."""

    deny: frozenset[Bdf] = frozenset()


def load(host: Host) -> Policy:
    """Read the host's policy; a host without the file allows everything.

    :raises BadPolicy: the file is there and cannot be believed.
    """
    text = host.policy()
    return Policy() if text is None else parse(text)


def parse(text: str) -> Policy:
    """Read a policy.

    :raises BadPolicy: not TOML, an unknown key, or a value of another shape.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _bad(str(error)) from error
    unknown = sorted(content.keys() - {"deny"})
    if unknown:
        raise _bad(f"unknown key {unknown[0]!r}, expected deny")
    deny = content.get("deny", [])
    if not (isinstance(deny, list) and all(isinstance(item, str) for item in deny)):
        raise _bad(f'deny: {deny!r}, expected a list such as ["0000:03:00.0"]')
    try:
        return Policy(frozenset(Bdf.parse(item) for item in deny))
    except ValueError as error:
        raise _bad(f"deny: {error}") from error


def _bad(why: str) -> BadPolicy:
    return BadPolicy(f"{PATH}: {why}", hint=f"correct or remove {PATH}")
