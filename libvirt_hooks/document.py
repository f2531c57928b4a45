# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``virt-nvme-reset show -o json`` prints: all that is known of one controller, for programs.

Every key is there whatever is known; what is not is null. Keys only ever come along. Pure.
"""

from enum import IntEnum
from typing import Any

from .known import Known
from .observe import Observation
from .registers import Register

Document = dict[str, Any]


def document(known: Known) -> Document:
    """Return it."""
    drive = known.identity
    return {
        "bdf": str(known.bdf),
        "vendor": f"{known.vendor:04x}" if known.vendor else None,
        "device": f"{known.device:04x}" if known.vendor else None,
        "model": drive and drive.model,
        "serial": drive and drive.serial,
        "euis": list(drive.euis) if drive else None,
        "driver": known.driver,
        "users": [user._asdict() for user in known.users],
        "iommu_group": known.group and _group(*known.group),
        "capabilities": known.capabilities and known.capabilities._asdict(),
        "observed": known.seen and _observed(known.seen),
        "not_observed": known.unseen or None,
        "quirk": known.quirk._asdict(),
        "guests": list(known.owners),
        "marks": {"dead": known.dead, "stuck": known.stuck},
        "policy": {
            "mode": known.policy.mode,
            "guard": known.guard,
            "close": known.close,
            "denied": known.denied,
        },
        "forecast": [vars(fate) for fate in known.fates],
    }


def _group(number: str, others: Any) -> Document:
    return {"number": number, "others": list(map(str, others))}


def _observed(seen: Observation) -> Document:
    return {
        "gone": seen.gone,
        "evidence": seen.evidence,
        "nvme_state": seen.nvme_state,
        "open": seen.open,
        "power_state": seen.power_state,
        "reset_methods": _listed(seen.reset_methods),
        "offered": _listed(seen.offered),
        "neighbours": _listed(seen.neighbours),
        "virtual_functions": seen.virtual_functions,
        "port": seen.port and str(seen.port),
        "slot": seen.slot,
        "state": seen.state and seen.state.value,
        "disabled": seen.disabled,
        "pristine": seen.pristine,
        "unreadable": seen.unreadable or None,
        "registers": seen.registers
        and {type(each).__name__: _register(each) for each in vars(seen.registers).values()},
    }


def _listed(values: Any) -> list[str] | None:
    return None if values is None else list(map(str, values))


def _register(register: Register) -> Document:
    """A value of 64 bits is more than many a reader of JSON has for a number: hence the text."""
    table = register.fields()
    fields = {name: field.extract(register) for name, field in table.items()}
    meant = {name: field.meaning(fields[name]) for name, field in table.items()}
    words = {name: each.name.lower() for name, each in meant.items() if isinstance(each, IntEnum)}
    return {"value": register.raw.partition("=")[2], "fields": fields, "meanings": words}
