# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Linux half of the Host protocol: sysfs, registers, records, locks, workers, the journal."""
