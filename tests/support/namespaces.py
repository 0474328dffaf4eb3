"""A network of two namespaces and a cable between them, for real TCP on a line that is bad."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

NETWORK, EDGE_ADDRESS, CLOUD_ADDRESS = "10.77.0.0", "10.77.0.1", "10.77.0.2"
CABLE = "cable0"
HEADER_BYTES = 14 + 20 + 32
"""Ethernet, IP, TCP with time stamps: of each packet, as the interface counts it."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What an interface has sent so far."""

    bytes: int
    packets: int

    @property
    def payload(self) -> int:
        """Bytes within TCP: HTTP/2 and what it carries."""
        return self.bytes - HEADER_BYTES * self.packets


class Network:
    """Namespaces ``edge`` and ``cloud``; both ends of the cable are called ``CABLE``."""

    def __init__(self, edge: str, cloud: str) -> None:
        self.edge, self.cloud = edge, cloud

    def inside(self, namespace: str) -> tuple[str, ...]:
        """What goes before a command that is to run there."""
        return ("ip", "netns", "exec", namespace)

    def link(self, namespace: str, *, up: bool) -> None:
        """Pull the cable out at this end, or put it in. TCP is told nothing."""
        run("ip", "-n", namespace, "link", "set", CABLE, "up" if up else "down")

    def shape(self, namespace: str, *qdisc: str) -> None:
        """How this end sends: ``tc``'s words for a queueing discipline; none is without limit."""
        on = (*self.inside(namespace), "tc", "qdisc")
        if qdisc:
            run(*on, "replace", "dev", CABLE, "root", *qdisc)
        else:
            subprocess.run((*on, "del", "dev", CABLE, "root"), capture_output=True)

    def limit(self, namespace: str, bits_per_second: int) -> None:
        """So much leaves this end, and what waits longer than 0.3 s is dropped."""
        self.shape(
            namespace, "tbf", "rate", f"{bits_per_second}bit", "burst", "4000", "latency", "300ms"
        )

    def sever(self, namespace: str) -> int:
        """End its TCP connections to the other side; how many, 0 where the kernel cannot."""
        if shutil.which("ss") is None:
            return 0
        command = (
            *self.inside(namespace),
            "ss",
            "-HK",
            "state",
            "established",
            "dst",
            "10.77.0/24",
        )
        listing = subprocess.run(command, capture_output=True, text=True).stdout
        return len(listing.splitlines())

    def counters(self, namespace: str) -> Counters:
        """Of its end of the cable."""
        [link] = json.loads(run("ip", "-n", namespace, "-s", "-j", "link", "show", CABLE))
        sent = link["stats64"]["tx"]
        return Counters(sent["bytes"], sent["packets"])

    def need(self, *qdisc: str) -> None:
        """Skip the test where the kernel has no such queueing discipline."""
        try:
            self.shape(self.edge, *qdisc)
        except OSError as error:
            pytest.skip(f"no {qdisc[0]} here: {error}")
        self.shape(self.edge)


@contextmanager
def two_namespaces() -> Iterator[Network]:
    """A ``Network`` while it is needed; skips the test where there can be none."""
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        pytest.skip(f"network namespaces need {' and '.join(missing)} (iproute2)")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    network = Network(f"fw-{os.getpid()}-edge", f"fw-{os.getpid()}-cloud")
    both = {network.edge: EDGE_ADDRESS, network.cloud: CLOUD_ADDRESS}
    with ExitStack() as stack:
        for namespace in both:
            try:
                run("ip", "netns", "add", namespace)
            except OSError as error:
                pytest.skip(f"network namespaces need CAP_SYS_ADMIN: {error}")
            stack.callback(run, "ip", "netns", "del", namespace)  # its end of the cable too
        try:
            run("ip", "link", "add", CABLE, "netns", network.edge, "type", "veth",
                "peer", "name", CABLE, "netns", network.cloud)  # fmt: skip
        except OSError as error:
            pytest.skip(f"virtual cables need CAP_NET_ADMIN: {error}")
        for namespace, address in both.items():
            on = ("ip", "-n", namespace)
            # Packets as on a wire: what is counted has a header each 1500 bytes.
            run(*on, "link", "set", CABLE, "addrgenmode", "none", "gso_max_segs", "1")
            run(*on, "address", "add", f"{address}/24", "dev", CABLE)
            for name in ("lo", CABLE):
                run(*on, "link", "set", name, "up")
        yield network


def run(*command: str) -> str:
    """What it prints. Raises OSError with what it complains of."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
