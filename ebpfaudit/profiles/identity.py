"""Programs named by their content: `same-as:/usr/bin/ssh` (whatever that file holds), `sha256:<64 hexadecimal digits>`."""

from __future__ import annotations

import os
import re

SAME_AS = "same-as:"
SHA256 = "sha256:"

_HEX = re.compile(r"[0-9a-f]{64}")


class IdentityError(ValueError):
    """A text that begins like an identity and is none; the message says why."""


def is_identity(text: str) -> bool:
    """Whether `text` begins as an identity does; `parse_identity` says whether it is one."""
    return text.startswith((SAME_AS, SHA256))


def parse_identity(text: str) -> tuple[str, str]:
    """("same-as", full path) or ("sha256", hash in lower case); raises IdentityError."""
    if text.startswith(SHA256):
        digits = text.removeprefix(SHA256).lower()
        if not _HEX.fullmatch(digits):
            raise IdentityError(
                f"'{text}': SHA-256 has 64 hexadecimal digits, these are {len(digits)} characters"
            )
        return "sha256", digits
    path = text.removeprefix(SAME_AS)
    if not re.match(r"/[^/]", path) or "\0" in path or os.path.normpath(path) != path:
        raise IdentityError(f"'{text}': write the full path of a file, such as 'same-as:/usr/bin/ssh'")
    if re.search(r"[*?\[]", path):
        raise IdentityError(f"'{text}': the path of one file, without '*', '?' or '['")
    return "same-as", path
