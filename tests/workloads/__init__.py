"""Ordinary work of a coding agent, done for real under a profile: what raises an alarm here is a false one.

`python -m tests.workloads` (or `make workloads`) runs what `list/` holds; `catalogue.py` says how one is written.
"""
