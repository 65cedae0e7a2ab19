"""Ask the cloud for this host's credentials."""

from __future__ import annotations

import sys
import urllib.request

import places

URL = f"http://{places.METADATA}/latest/meta-data/iam/security-credentials/host"

try:
    with urllib.request.urlopen(URL, timeout=3) as answer:
        print(f"metadata: {len(answer.read())} bytes of credentials", file=sys.stderr)
except OSError as error:
    sys.exit(f"metadata: {error}")
