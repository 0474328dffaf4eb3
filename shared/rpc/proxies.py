"""Whether a proxy of the environment stands between us and a server.

As gRPC has it, ``grpc_proxy``, ``https_proxy`` and ``http_proxy`` name one, the first that is set,
and ``no_grpc_proxy`` or ``no_proxy`` the hosts that are reached directly. This machine always is:
containers and shells are given proxies by people who think of the internet.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
DIRECT_VARIABLES = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Proxy:
    """The variable that names a proxy, and the proxy's URL."""

    variable: str
    url: str

    @property
    def shown(self) -> str:
        """The URL without user and password."""
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2].partition('/')[0]}"


def proxy_for(host: str, port: int, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy through which gRPC reaches ``host``; None: directly, also where the one that is
    named is spoken to in anything but plain HTTP, which gRPC does not do.

    environment: None is this process'. An entry of ``no_proxy`` is a host, a domain with all below
    it (with a leading dot or ``*.`` or without), an address, a network such as ``10.0.0.0/8``, any
    of them with ``:PORT``, or ``*``; entries are separated by commas or spaces.
    """
    variables = os.environ if environment is None else environment
    named = next((name for name in PROXY_VARIABLES if variables.get(name, "").strip()), None)
    if named is None or is_direct(host, port, variables):
        return None
    url = variables[named].strip()
    if "://" not in url:
        url = f"http://{url}"
    return Proxy(named, url) if url.lower().startswith("http://") else None


def is_direct(
    host: str,
    port: int,
    environment: Mapping[str, str] | None = None,
    variables: Sequence[str] = DIRECT_VARIABLES,
) -> bool:
    """Whether no proxy is asked for a host: it is this machine, or ``no_proxy`` has it.

    variables: those that hold such names; the first that is set counts.
    """
    values = os.environ if environment is None else environment
    entries = next((text for name in variables if (text := values.get(name))), "")
    return _is_local(host) or any(
        _matches(entry, host, port) for entry in entries.replace(",", " ").split()
    )


def reach_loopback_directly(environment: MutableMapping[str, str] | None = None) -> None:
    """Let ``no_proxy`` name this machine, for libraries that go by the environment alone, and for
    processes that are started; nothing where no proxy is named."""
    variables = os.environ if environment is None else environment
    if not any(variables.get(name) for name in (*_any_case("http_proxy"), *_any_case("https_proxy"),
                                                *_any_case("all_proxy"))):  # fmt: skip
        return
    given = next((text for name in ("no_proxy", "NO_PROXY") if (text := variables.get(name))), "")
    entries = given.replace(",", " ").split()
    if "*" not in entries:
        whole = ",".join([*entries, *(name for name in LOOPBACK if name not in entries)])
        variables["no_proxy"] = variables["NO_PROXY"] = whole


def _any_case(name: str) -> tuple[str, str]:
    return name, name.upper()


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None


def _is_local(host: str) -> bool:
    """Of this machine: a loopback address, ``localhost`` and what is below it, a Unix socket."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost") or host.startswith(("unix:", "/")):
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    entry, of_port = _without_port(entry.lower())
    if of_port is not None and of_port != port:
        return False
    address = _address(host)
    if address is not None:
        try:
            network = ipaddress.ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            return False
        return address.version == network.version and address in network
    domain = entry.removeprefix("*").strip(".")
    name = host.lower().rstrip(".")
    return bool(domain) and (name == domain or name.endswith(f".{domain}"))


def _without_port(entry: str) -> tuple[str, int | None]:
    head, colon, tail = entry.rpartition(":")
    # An address of IPv6 has colons of its own; with a port it stands in brackets.
    if colon and tail.isdigit() and (":" not in head or head.endswith("]")):
        return head, int(tail)
    return entry, None
