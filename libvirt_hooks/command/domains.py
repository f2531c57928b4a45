# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest's definition, from a file or from libvirt; and what libvirt calls its guests.

libvirt-python is optional, and loaded only by who asks libvirt something: a hook that did would
wait for the very daemon that waits for it. Connections are read-only, so secrets are not asked for.
"""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..domain import Domain, parse
from ..errors import BadDomain, BadName, HookError

SYSTEM = "qemu:///system"
STDIN = "-"


def read(path: str) -> Domain:
    """Return the domain in a file; ``-`` is stdin.

    :raises BadDomain: it cannot be read, or is none.
    """
    try:
        with open(0 if path == STDIN else path, "rb", closefd=path != STDIN) as file:
            data = file.read()
    except OSError as error:
        raise BadDomain(f"{path}: reading: {error.strerror}") from error
    try:
        return parse(data)
    except BadDomain as error:
        raise BadDomain(f"{path}: {error.message}", error.hint) from error


def chosen(arguments: Namespace) -> Domain | None:
    """Return the guest that ``DOMAIN`` or ``--xml FILE`` means, None without either.

    :raises BadName: both are there, or libvirt has no such guest.
    :raises HookError: it cannot be had, or cannot be believed.
    """
    if arguments.xml is None:
        name: str | None = arguments.domain
        return None if name is None else definition(name, arguments.connect)
    if arguments.domain is not None:
        raise BadName(f"{arguments.domain}: both DOMAIN and --xml, expected one of them")
    return read(arguments.xml)


def definition(name: str, uri: str = SYSTEM, *, inactive: bool = False) -> Domain:
    """Return a guest by its name or uuid: as it runs, or as it is defined if it does not.

    :param inactive: as it is defined, whether it runs or not.
    :raises BadName: libvirt has no such guest.
    :raises HookError: libvirt cannot be asked.
    """
    with _connected(name, uri) as (libvirt, connection):
        try:
            found = _find(libvirt, connection, name)
            flags = libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0
            return parse(found.XMLDesc(flags).encode())
        except libvirt.libvirtError as error:
            message = f"{name}: asking {uri} for it: {error.get_error_message()}"
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                raise BadName(message, f"virsh -c {uri} list --all") from error
            raise HookError(message) from error


def definitions(uri: str = SYSTEM) -> list[Domain] | None:
    """Return every guest as it is defined, or as it runs if it is not; None: libvirt is silent.

    One whose definition cannot be believed is passed over: its start will say so.
    """
    try:
        with _connected(uri, uri) as (libvirt, connection):
            found = []
            for guest in connection.listAllDomains():
                flags = libvirt.VIR_DOMAIN_XML_INACTIVE if guest.isPersistent() else 0
                with suppress(BadDomain, libvirt.libvirtError):  # or it has just been undefined
                    found.append(parse(guest.XMLDesc(flags).encode()))
            return found
    except HookError:
        return None


def names(uri: str = SYSTEM) -> dict[str, str]:
    """Return every guest's name by its uuid; nothing where libvirt cannot be asked."""
    return {each.UUIDString(): each.name() for each in _guests(uri)}


def running(uri: str = SYSTEM) -> frozenset[str]:
    """Return the uuids of the guests that run; nothing where libvirt cannot be asked."""
    return frozenset(each.UUIDString() for each in _guests(uri, "VIR_CONNECT_LIST_DOMAINS_ACTIVE"))


def _guests(uri: str, *flags: str) -> Iterator[Any]:
    try:
        with _connected(uri, uri) as (libvirt, connection):
            try:
                yield from connection.listAllDomains(sum(getattr(libvirt, flag) for flag in flags))
            except libvirt.libvirtError:
                return  # the daemon has gone meanwhile
    except HookError:
        return


def _find(libvirt: Any, connection: Any, name: str) -> Any:
    try:
        return connection.lookupByName(name)
    except libvirt.libvirtError as error:
        try:
            return connection.lookupByUUIDString(name)
        except libvirt.libvirtError:
            raise error from None  # what was typed was more likely a name


@contextmanager
def _connected(who: str, uri: str) -> Iterator[tuple[Any, Any]]:
    """The module, which has no types, and a connection."""
    try:
        import libvirt
    except ImportError as error:
        raise HookError(
            f"{who}: asking libvirt: {error}, expected libvirt-python",
            "install python3-libvirt",
        ) from error
    # Its own handler prints every error on stderr; each is an exception as well.
    libvirt.registerErrorHandler(lambda context, error: None, None)
    try:
        connection = libvirt.openReadOnly(uri)
    except libvirt.libvirtError as error:
        raise HookError(
            f"{uri}: connecting: {error.get_error_message()}",
            "start libvirt's daemon, or give the guest's definition with --xml FILE",
        ) from error
    try:
        yield libvirt, connection
    finally:
        connection.close()
