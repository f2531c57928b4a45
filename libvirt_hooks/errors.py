# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything that can go wrong, told apart by what a person would do about it.

    HookError
      BadDomain            the domain XML is not what libvirt prints
      BadPolicy            the administrator's file cannot be believed
      BadName              what was typed names no controller, or no guest
      Refused              admission: this controller may not go to a guest now
      DeviceBusy           somebody else owns the controller, or holds our lock
      DeviceGone           all ones: no reset may be started on it any more
      RegistersUnreadable  BAR0 cannot be mapped (lockdown, claimed)
      SysfsError           the kernel refused a read or a write
      LadderExhausted      every allowed reset was tried and did not help
      OutOfTime            the operation's deadline came first
      Stuck                a worker overstayed the deadline, perhaps for ever
      BadRecord            a file under /run is not one of ours

A message reads *who: what failed: what was seen (against what was expected)*. This module
imports nothing of the package.
"""

import errno as _errno
import os


class HookError(Exception):
    """Base of all errors that a user may see.

    :param message: one line, *who: what failed: seen against expected*.
    :param hint: the one true next move, or the empty string.
    """

    exit_status = 1
    reason = "error"
    """In a word, for counting."""
    told = False
    """It is in the journal already."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def in_full(self) -> str:
        """Message and hint on one line, for the journal."""
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class BadDomain(HookError):
    """The domain XML cannot be believed."""

    reason = "domain"


class BadPolicy(HookError):
    """The administrator's policy cannot be believed."""

    reason = "policy"


class BadName(HookError):
    """What a person typed names nothing: wrong usage."""

    exit_status = 2


class Refused(HookError):
    """Admission says no.

    :param reason: which of its rules, in a word.
    """

    def __init__(self, message: str, hint: str = "", reason: str = "refused") -> None:
        super().__init__(message, hint)
        self.reason = reason


class DeviceBusy(HookError):
    """Somebody else owns the controller."""

    reason = "busy"


class DeviceGone(HookError):
    """Configuration space or registers read all ones."""

    reason = "gone"


class RegistersUnreadable(HookError):
    """BAR0 is there but may not be mapped.

    :param forbidden: by kernel lockdown, whoever asks.
    """

    reason = "unreadable"

    def __init__(self, message: str, hint: str = "", forbidden: bool = False) -> None:
        super().__init__(message, hint)
        self.forbidden = forbidden


class LadderExhausted(HookError):
    """No allowed reset is left and the goal is not reached.

    :param disabled: the controller was seen disabled all the same: no reset can hurt it.
    """

    reason = "not-reset"

    def __init__(self, message: str, hint: str = "", disabled: bool = False) -> None:
        super().__init__(message, hint)
        self.disabled = disabled


class OutOfTime(HookError):
    """The deadline came before the goal; everything was let go of in good order."""

    reason = "time"


class Stuck(HookError):
    """A worker did not end within the deadline.

    :param pid: the worker that was left behind, 0 if there is none.
    :param started: its start time, field 22 of /proc/PID/stat.
    """

    reason = "stuck"

    def __init__(self, message: str, hint: str = "", pid: int = 0, started: int = 0) -> None:
        super().__init__(message, hint)
        self.pid = pid
        self.started = started


class BadRecord(HookError):
    """A state file does not hold what we write there."""

    reason = "record"


class SysfsError(HookError):
    """The kernel refused a read or a write of an attribute.

    :param who: what was read or written, usually a BDF.
    :param what: the access in words, such as ``writing 'bus' to reset_method``.
    :param number: the errno value.
    """

    reason = "kernel"

    def __init__(self, who: object, what: str, number: int) -> None:
        super().__init__(f"{who}: {what}: {os.strerror(number)}")
        self.number = number
        self.name = _errno.errorcode.get(number, str(number))
