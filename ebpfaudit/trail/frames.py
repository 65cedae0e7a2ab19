"""A trail's bytes as frames: where each begins and ends, found without trusting any of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from ebpfaudit.trail.format import MAX_FRAME_BYTES, MAX_WINDOW_BYTES, SEAL_BYTES, SEAL_MAGIC, SEAL_PREFIX

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAX_BLOCK_BYTES = 128 << 10
_PIECE_BYTES = 256 << 10


class RawFrame(NamedTuple):
    """A whole zstd frame as it lies in the file. Nothing in it has been decompressed yet."""

    offset: int
    data: bytes

    @property
    def digest(self) -> str:
        """What the next frame's `prev`, or the seal, must say."""
        return hashlib.sha256(self.data).hexdigest()


class Seal(NamedTuple):
    """The last bytes of a closed trail: the digest of the frame before."""

    offset: int
    digest: str


class FrameDamage(Exception):
    """Bytes that no writer wrote. `str()` says what is wrong with them."""


class FrameCut(FrameDamage):
    """The file ends inside a frame."""


def walk(file: IO[bytes]) -> Iterator[RawFrame | Seal]:
    """The frames of a trail, in order. Raises FrameDamage where there is none; what follows cannot be found."""
    offset = 0
    while magic := file.read(4):
        if magic[:1] == SEAL_MAGIC[:1]:
            item: RawFrame | Seal = Seal(offset, _seal(magic + file.read(SEAL_BYTES - 4)))
            offset += SEAL_BYTES
        else:
            item = RawFrame(offset, _frame(magic, file))
            offset += len(item.data)
        yield item


def expand(frame: RawFrame) -> list[bytes]:
    """The text of a frame, in pieces, once its checksum has been found right. Raises FrameDamage."""
    import zstandard

    pieces: list[bytes] = []
    size = 0
    reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).stream_reader(frame.data)
    try:
        while piece := reader.read(_PIECE_BYTES):
            size += len(piece)
            if size > MAX_FRAME_BYTES:
                raise FrameDamage(f"it holds more than {MAX_FRAME_BYTES >> 20} MiB of text")
            pieces.append(piece)
    except zstandard.ZstdError as error:
        raise FrameDamage(f"it cannot be decompressed ({str(error).removeprefix('zstd ')})") from None
    return pieces


def _seal(data: bytes) -> str:
    if len(data) < SEAL_BYTES and SEAL_PREFIX.startswith(data[: len(SEAL_PREFIX)]):
        raise FrameCut("the file ends inside the seal")
    if not data.startswith(SEAL_PREFIX):
        raise FrameDamage("neither a frame nor a seal begins here")
    return data[len(SEAL_PREFIX) :].hex()


def _frame(magic: bytes, file: IO[bytes]) -> bytes:
    """The rest of the frame that begins with `magic` (RFC 8878, section 3.1.1), and `magic`."""
    if magic != ZSTD_MAGIC:
        if ZSTD_MAGIC.startswith(magic):
            raise FrameCut("the file ends inside the frame")
        raise FrameDamage("no frame begins here")
    parts = [magic]

    def take(count: int) -> bytes:
        data = file.read(count)
        if len(data) < count:
            raise FrameCut("the file ends inside the frame")
        parts.append(data)
        return data

    descriptor = take(1)[0]
    if not descriptor & 0x04 or descriptor & 0x0B:
        raise FrameDamage("its header is not one that a trail has: no checksum, or a dictionary")
    single_segment = descriptor >> 5 & 1
    take((1 - single_segment) + (single_segment, 2, 4, 8)[descriptor >> 6])
    size = 0
    last = 0
    while not last:
        header = int.from_bytes(take(3), "little")
        last, kind, block_bytes = header & 1, header >> 1 & 3, header >> 3
        if kind == 3 or block_bytes > _MAX_BLOCK_BYTES:
            raise FrameDamage("it has a block of an impossible kind or size")
        take(1 if kind == 1 else block_bytes)
        size += 4 + block_bytes if kind != 1 else 4
        if size > MAX_FRAME_BYTES:
            raise FrameDamage(f"it is longer than {MAX_FRAME_BYTES >> 20} MiB")
    take(4)
    return b"".join(parts)
