# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset config`: the policy that holds, for all guests or for one."""

from argparse import Namespace

from ..config import describe, document
from ..host import Host
from ..linux import policy_file
from ..policy import SILENT
from .domains import chosen
from .output import emit


def run(arguments: Namespace, host: Host) -> int:
    """Print it.

    :raises HookError: the policy or the domain cannot be believed.
    """
    found = policy_file.examine()
    guest = SILENT
    domain = chosen(arguments)
    if domain is not None:
        if domain.policy_error is not None:
            raise domain.policy_error
        guest = domain.policy
    said = (found.text, guest, found.untrusted)
    emit(arguments, document(*said), describe(*said))
    return 0
