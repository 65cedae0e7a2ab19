"""A DNS resolver for one stage: every name has one public address of either family. Prints a line once it answers.

It takes the place of a host's stub resolver; the addresses are documentation's (RFC 5737, RFC 3849).
"""

import socket
import struct
import sys
import zlib

A, AAAA = 1, 28


def answer(query: bytes) -> bytes:
    """The response to a query with one question."""
    end = query.index(b"\0", 12) + 5
    name, (kind,) = query[12 : end - 4], struct.unpack("!H", query[end - 4 : end - 2])
    host = 1 + zlib.crc32(name.lower()) % 250
    data = {
        A: socket.inet_aton(f"203.0.113.{host}"), AAAA: socket.inet_pton(socket.AF_INET6, f"2001:db8::{host:x}"),
    }.get(kind)  # fmt: skip
    header = query[:2] + struct.pack("!HHHHH", 0x8180, 1, 0 if data is None else 1, 0, 0)
    record = b"" if data is None else b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data
    return header + query[12:end] + record


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((sys.argv[1], 53))
        print("ready", flush=True)
        while True:
            query, client = server.recvfrom(4096)
            server.sendto(answer(query), client)


if __name__ == "__main__":
    main()
