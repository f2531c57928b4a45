# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine with NVMe controllers that misbehave by name, over a virtual clock.

The second opinion on the rest of the package: it writes every register offset by hand and
imports nothing but the Host protocol, Bdf and the errors.
"""
