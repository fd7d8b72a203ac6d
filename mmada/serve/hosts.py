"""Which names a server answers to.

A page of the web may give its own name the address of this machine after it was loaded (DNS rebinding). The visitor's browser then takes the
server for that page's own site, and only the `Host` header tells. So a server without a key answers to names that are its own, and to
addresses, which nobody can rebind.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection

__all__ = ["is_allowed", "is_loopback", "usual_hosts"]


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def usual_hosts(host: str, *, has_keys: bool) -> tuple[str, ...]:
    """What `--allowed-host` is where it is not given, for a server that listens on `host`.

    With a key every name: a page that has none gets nothing. Without one the names of this machine, as far as it is reached.
    """
    if has_keys:
        return ("*",)
    names = ["localhost", "*.localhost"]
    if not is_loopback(host):
        own = socket.gethostname().lower()
        names += [own, f"{own.partition('.')[0]}.local"]
        names += [] if _is_address(host) else [host.lower()]
    return tuple(dict.fromkeys(names))


def is_allowed(header: str, allowed: Collection[str]) -> bool:
    """Whether a `Host` header is an address, or one of the names: "*" is any, "*.example.com" those below one."""
    if "*" in allowed:
        return True
    name = _name_of(header)
    return _is_address(name) or any(name.endswith(one[1:]) if one.startswith("*.") else name == one for one in allowed)


def _name_of(header: str) -> str:
    """Without port, brackets and the dot of the root."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
