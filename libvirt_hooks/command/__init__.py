# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verbs of virt-nvme-reset, a module each; ``parser`` lists them, ``cli`` runs one.

A verb's module has ``run(arguments, host) -> int``, the exit status, and is loaded only for it.
"""
