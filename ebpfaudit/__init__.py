"""eBPF syscall auditing for hosts that run AI agents."""

__version__ = "0.1.0"
