# SPDX-License-Identifier: LGPL-2.1-or-later
"""The policy, for verbs that only look: a broken one, or one that cannot be read, is told, and is
no reason not to look.
"""

from .. import policy
from ..errors import BadPolicy, SysfsError
from ..host import Host
from ..policy import Policy
from .output import complain


def lenient(host: Host) -> Policy:
    """Return the policy that holds, or the defaults."""
    try:
        return policy.load(host)
    except (BadPolicy, SysfsError) as error:
        complain(error)
        return Policy()
