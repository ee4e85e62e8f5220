"""Attacks on the network: every way out of a sandbox that a socket is. What they connect to is the stage's own."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from secrets import token_hex
from typing import Any

from milepost.sandbox.attacks.core import Attack, Control, Hole, Verdict, inside, without
from milepost.sandbox.attacks.prelude import NEWNET, NEWUSER, Refused, call, first
from milepost.sandbox.attacks.stage import Stage

NO_WAY = (
    errno.EAFNOSUPPORT,
    errno.ENETUNREACH,
    errno.ECONNREFUSED,
    errno.EHOSTUNREACH,
    errno.ENOENT,
    errno.EADDRNOTAVAIL,
)


def _send(family: int, kind: int, at: object, text: str) -> str:
    with socket.socket(family, kind) as client:
        client.settimeout(10)
        client.connect(tuple(at) if isinstance(at, list) else str(at))
        client.send(text.encode())
    return "connected"


def _ask(at: list[object], name: str) -> str:
    # By hand, as a resolver would: the name itself carries out what is told.
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    query = struct.pack(">6H", 0x1234, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">HH", 1, 1)

    def local() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(tuple(at))
            client.send(query)
        return "asked"

    try:
        return f"resolved a name: {socket.getaddrinfo('example.com', 80)[0][4]}"
    except OSError:
        return local()


def _raw() -> str:
    def opened() -> str:
        refusal: Exception = Refused("nothing to try")
        for family, kind, number in ((2, 3, 1), (17, 3, 0x300), (2, 2, 1), (16, 3, 0), (10, 3, 58)):
            try:
                socket.socket(family, kind, number).close()
                return f"opened a socket of family {family}, kind {kind}"
            except OSError as error:
                refusal = error
        raise refusal

    def owned() -> str:
        call("unshare", NEWUSER | NEWNET)
        return opened()

    return first(opened, owned)


def _vsock() -> str:
    socket.socket(40, socket.SOCK_STREAM).close()
    return "opened a socket to whatever runs this machine"


def _engine(paths: list[str]) -> str:
    seen = []
    for path in paths:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(2)
            try:
                os.chdir(os.path.dirname(path))  # the whole path may be longer than an address
                client.connect(os.path.basename(path))
            except OSError as error:
                seen.append(error.strerror or "")
                continue
            client.send(b"GET /_ping HTTP/1.0\r\n\r\n")
            return f"talks to {path}"
    raise Refused(f"{len(paths)} places: {', '.join(sorted(set(seen)))}")


def _heard(family: int, kind: int, at: Callable[[], Any]) -> Callable[[Stage], Verdict]:
    """Return how to play an attack that is judged by what arrives on the host."""

    def play(stage: Stage) -> Verdict:
        text = token_hex(8)
        with stage.listener(family, kind, at()) as (address, heard):
            where = "\0" + address[1:].decode() if isinstance(address, bytes) else address
            said = stage.inside(_send, *NO_WAY, family=family, kind=kind, at=where, text=text)
            arrived = text in heard()
        return Verdict(not arrived, "the host heard it" if arrived else said.detail)

    return play


def _dns(stage: Stage) -> Verdict:
    name = f"{token_hex(8)}.attack.test"
    with stage.listener(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)) as (address, heard):
        said = stage.inside(_ask, *NO_WAY, at=address, name=name)
        arrived = name.partition(".")[0] in heard()
    if said.detail.startswith("resolved"):
        return Verdict(False, said.detail)
    return Verdict(not arrived, "the host heard the query" if arrived else said.detail)


def _control_socket(stage: Stage) -> Verdict:
    path = str(stage.folder / "shown" / "engine.sock")
    usual = ["/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock"]
    given = os.environ.get("DOCKER_HOST", "").removeprefix("unix://")
    with stage.listener(socket.AF_UNIX, socket.SOCK_STREAM, path):
        return stage.inside(_engine, paths=[path, *usual, *([given] if given.startswith("/") else [])])


OPEN = without("network")
TCP = _heard(socket.AF_INET, socket.SOCK_STREAM, lambda: ("127.0.0.1", 0))
UDP = _heard(socket.AF_INET, socket.SOCK_DGRAM, lambda: ("127.0.0.1", 0))
ABSTRACT = _heard(socket.AF_UNIX, socket.SOCK_STREAM, lambda: f"\0milepost-{token_hex(8)}")
ATTACKS = [
    Attack("tcp", "Connects to a server on the host.", TCP, OPEN),
    Attack("udp", "Sends a datagram to the host.", UDP, OPEN),
    Attack("dns", "Resolves a name, and asks a name server of the host for one that tells a secret.", _dns, OPEN),
    Attack("raw-socket", "Opens raw, packet and netlink sockets.", inside(_raw, *NO_WAY), without("seccomp")),
    Attack("vsock", "Opens a socket to the hypervisor.", inside(_vsock, *NO_WAY), without("seccomp")),
    Attack(
        "abstract-socket",
        "Connects to a socket of the host that has a name and no file.",
        ABSTRACT,
        OPEN,
        landlock=without("signals"),
    ),
    Attack(
        "engine-socket",
        "Talks to the Docker engine, or to a socket of the host that lies where its would.",
        _control_socket,
        Control(shows=("shown",)),
        hole=Hole("landlock does not hold back connections to a socket file; only its own permissions do"),
    ),
]
