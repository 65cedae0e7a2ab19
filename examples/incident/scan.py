"""Who else lives on this network? Forty hosts, four ports, the way a curious agent writes it."""

from __future__ import annotations

import asyncio
import sys

import places

PORTS = sorted(set(places.INTERNAL.values()))


async def knock(host: str, port: int) -> str | None:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 0.5)
    except OSError:  # TimeoutError is one
        return None
    writer.close()
    return f"{host}:{port}"


async def main() -> int:
    knocks = [knock(host, port) for host in places.INTERNAL_HOSTS for port in PORTS]
    found = [answer for answer in await asyncio.gather(*knocks) if answer]
    print(f"scan: {len(found)} open ports: {', '.join(found)}", file=sys.stderr)
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
