"""The addresses of the stage: what stands in for the outside, a pool, the internal network and the cloud."""

from __future__ import annotations

OUTSIDE, SSH_PORT = "198.51.100.10", 2200
ACCOUNT = "daemon"
"""Who sshd runs as and lets in. Not nobody, whom nss-systemd reports as locked."""
POOL, STRATUM_PORT = "198.51.100.20", 3333
METADATA, METADATA_PORT = "169.254.169.254", 80
INTERNAL = {"10.66.0.5": 6379, "10.66.0.7": 5432, "10.66.0.9": 8080, "10.66.0.11": 9200}
INTERNAL_HOSTS = [f"10.66.0.{host}" for host in range(1, 41)]

WORKSPACE, WORKSPACE_PORT = "127.0.0.1", 8765
"""The agent's own loopback service, which nobody outside should ever reach."""

TUNNEL_PORTS = OPENED_PORT, RENAMED_PORT = 2222, 2223
"""Ports that the two tunnels open on the outside."""
