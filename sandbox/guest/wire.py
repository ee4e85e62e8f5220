"""Frames on a pipe: two little-endian uint32, the length of a JSON header and of the bytes behind it, then both."""

from __future__ import annotations

import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeAlias

    Header = dict[str, Any]
    Part: TypeAlias = "bytes | bytearray | Contents"

PIECE = 1 << 16


class Contents:
    """Bytes that are made piece by piece, only when they are sent."""

    def __init__(self, n: int, pieces: Iterator[bytes]) -> None:
        self.n, self.pieces = n, pieces

    def __len__(self) -> int:
        return self.n


def content(fd: int, n: int) -> Iterator[bytes]:
    """Yield so many bytes of an open file, and close it; those that it lost since they were counted are zeros."""
    while n:
        try:
            part = os.read(fd, min(PIECE, n))
        except OSError:
            part = b""
        part = part or bytes(min(PIECE, n))
        n -= len(part)
        yield part
    os.close(fd)


class Pipe:
    """Two ends of pipes to whoever asks or answers."""

    def __init__(self, reads: int, writes: int) -> None:
        self.reads, self.writes = reads, writes

    def receive(self) -> tuple[Header, bytearray | None]:
        """Return the next header and its data, None where these are more than memory has room for.

        Raises:
            EOFError: The other side is gone.
        """
        n_header, n_data = struct.unpack("<II", self._read(8))
        header = loads(self._read(n_header).decode())
        try:
            return header, self._read(n_data)
        except MemoryError:
            while n_data:
                n_data -= len(self._read(min(n_data, PIECE)))
            return header, None

    def send(self, header: Header, *parts: Part) -> None:
        """Send a header with what lies behind it.

        Raises:
            EOFError: The other side is gone.
        """
        text = dumps(header).encode()
        start = struct.pack("<II", len(text), sum(map(len, parts))) + text
        try:
            for part in (start, *parts):
                for piece in part.pieces if isinstance(part, Contents) else (part,):
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[os.write(self.writes, rest) :]
        except OSError as error:
            raise EOFError from error

    def close(self) -> None:
        """Close both ends."""
        os.close(self.reads)
        os.close(self.writes)

    def _read(self, n: int) -> bytearray:
        data = bytearray(n)
        rest = memoryview(data)
        while rest:
            got = os.readv(self.reads, [rest])
            if not got:
                raise EOFError
            rest = rest[got:]
        return data


def _codec() -> tuple[Callable[[str], Any], Callable[[Any], str]]:
    """Return what reads and writes JSON: the C half of ``json``, as importing the other takes as long as a start."""
    try:
        import _json

        class Context:
            strict, object_hook, object_pairs_hook = False, None, None
            parse_float, parse_int, parse_constant = float, int, float
            memo: dict[str, str] = {}  # noqa: RUF012

        scan = _json.make_scanner(Context())  # type: ignore[arg-type]
        encode = _json.make_encoder(None, repr, _json.encode_basestring_ascii, None, ": ", ", ", False, False, True)
        if (
            scan('{"a": [1, 0.5, null]}', 0)[0] == {"a": [1, 0.5, None]}
            and "".join(encode([{"a": 1}], 0)) == '[{"a": 1}]'
        ):
            return lambda text: scan(text, 0)[0], lambda value: "".join(encode(value, 0))
    except (ImportError, AttributeError, TypeError):
        pass
    import json

    return json.loads, json.dumps


loads, dumps = _codec()
