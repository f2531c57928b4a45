# SPDX-License-Identifier: LGPL-2.1-or-later
"""The policy, for verbs that only look: a broken one is told, and no reason not to look."""

from .. import policy
from ..errors import BadPolicy
from ..host import Host
from ..policy import Policy
from .output import complain


def lenient(host: Host) -> Policy:
    """Return the policy that holds, or the defaults."""
    try:
        return policy.load(host)
    except BadPolicy as error:
        complain(error)
        return Policy()
