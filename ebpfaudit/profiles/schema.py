"""What a profile file may say. Strict: an unknown key is an error, never a silent nothing.

These are the shapes of the TOML text; `profiles.load` reads, extends and checks them, and
`profiles.network` and `profiles.devices` turn the sections into the tables that both the probes
(through `kernel.tables`) and the evaluator decide by.
"""

from __future__ import annotations
