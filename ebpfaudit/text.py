"""Bytes that a hostile process chose, as text that no terminal, page or log can be hurt by."""

from __future__ import annotations


def show(raw: bytes) -> str:
    r"""Escape `raw` so that every character of the result is printable; `hide` gives back `raw`.

    Undecodable and unprintable bytes become ``\xNN``, a backslash becomes two.
    """
    if raw.isascii():
        text = raw.decode("ascii")
        if text.isprintable() and "\\" not in text:
            return text
    text = raw.replace(b"\\", rb"\\").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def hide(shown: str) -> bytes:
    """The bytes that `show` was given."""
    raw = bytearray()
    position = 0
    while position < len(shown):
        char = shown[position]
        if char != "\\":
            raw += char.encode()
            position += 1
        elif shown[position + 1] == "\\":
            raw += b"\\"
            position += 2
        else:
            raw.append(int(shown[position + 2 : position + 4], 16))
            position += 4
    return bytes(raw)


def _escape(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode())
