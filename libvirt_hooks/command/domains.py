# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest's definition, from a file."""

from ..domain import Domain, parse
from ..errors import BadDomain


def read(path: str) -> Domain:
    """Return the domain in a file.

    :raises BadDomain: it cannot be read, or is none.
    """
    try:
        with open(path, "rb") as file:
            return parse(file.read())
    except OSError as error:
        raise BadDomain(f"{path}: reading: {error.strerror}") from error
