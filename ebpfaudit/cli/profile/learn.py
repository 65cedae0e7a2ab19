"""`ebpfaudit profile learn`: the tightest profile for what was observed."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ebpfaudit.profiles.schema import Profile
    from ebpfaudit.trail.learning.draft import Learned
    from ebpfaudit.trail.learning.observation import Observations

_SHOWN_LINES = 20


@click.command("learn")
@click.argument("trails", metavar="TRAIL...", nargs=-1, required=True)
@click.option("--name", metavar="NAME", help="Of the new profile.  [default: that of the file, or 'learned']")
@click.option(
    "--extends", metavar="NAME|FILE", default="base", show_default=True, help="The profile to extend."
)
@click.option(
    "--output", "-o", metavar="FILE", type=click.Path(dir_okay=False), help="Write there, not to stdout."
)
def learn(trails: tuple[str, ...], name: str | None, extends: str, output: str | None) -> int:
    """Write the tightest readable profile that allows what was observed in TRAILs (files, or folders of them).

    Destinations, Unix sockets, GPUs and programs that were seen and not denied are allowed, generalised where a next
    run would differ (temporary names, versions, ephemeral ports, many neighbours), each with its evidence. All else
    is denied; another program is an alert. Whatever the extended profile denies or kills is never allowed: it is
    listed, with all else that was left out, at the end and on stderr.

    Exits with 0; with 1 if a trail is damaged: the profile then allows what could be read.

    \b
    ebpfaudit profile learn ep-1.jsonl.zst ep-2.jsonl.zst -o my-agent.toml
    ebpfaudit profile learn /var/lib/ebpfaudit/trails --extends coding-agent --name my-agent
    ebpfaudit profile diff coding-agent ./my-agent.toml --trails ep-3.jsonl.zst
    """
    from ebpfaudit.cli.profile.trails import find_trails
    from ebpfaudit.profiles.load import load_profile
    from ebpfaudit.trail.learning.draft import Naming, write_profile

    base = load_profile(extends)
    written = str(Path(extends).resolve()) if "/" in extends or extends.endswith(".toml") else extends
    seen = _observe(find_trails(trails), base)
    learned = write_profile(seen, base, Naming(name or (Path(output).stem if output else "learned"), written))
    _put(learned.text, base, output)
    _tell(learned)
    return 1 if any(record.damaged for record in seen.trails) else 0


def _observe(paths: list[str], base: Profile) -> Observations:
    from ebpfaudit.cli.profile.progress import progress_bar
    from ebpfaudit.trail.learning.observation import Observations, Observer
    from ebpfaudit.trail.reader import read_trail

    def age(path: str) -> tuple[int, str, str]:
        with read_trail(path) as trail:
            return trail.header.realtime_ns, trail.header.episode, path

    seen = Observations()
    offset = 0
    done = 0
    # The same trails give the same profile, in whatever order they are named.
    ordered = sorted(paths, key=age)

    def note(position: int) -> None:
        nonlocal offset
        offset = position

    with progress_bar("learning", sum(map(os.path.getsize, ordered)), lambda: done + offset):
        for path in ordered:
            with read_trail(path) as trail:
                Observer(trail, base, seen).run(note)
                done, offset = done + trail.file_bytes, 0
    return seen


def _put(text: str, base: Profile, output: str | None) -> None:
    """Write the profile, once it is proved to be sound and no milder than `base` in anything."""
    from ebpfaudit.errors import ProfileError
    from ebpfaudit.profiles.load import load_profile
    from ebpfaudit.trail.learning.narrowness import looser

    with ExitStack() as cleanup:
        target = Path(output).resolve() if output else None
        is_file = target is not None and (target.is_file() or not target.exists())
        folder = target.parent if target is not None and is_file else None
        descriptor, temporary = tempfile.mkstemp(".toml", ".learned-", folder)
        path = Path(temporary)
        cleanup.callback(path.unlink, missing_ok=True)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        milder = next(looser(load_profile(temporary), base), None)
        if milder is not None:
            raise ProfileError(
                f"the learned profile would be milder than the one it extends, at {milder}; it was not written. "
                "Please report this, with the trails."
            )
        if target is not None and is_file:
            mask = os.umask(0)
            os.umask(mask)
            path.chmod(0o644 & ~mask)
            path.replace(target)
        elif target is not None:  # a device, a pipe: to be written to, not replaced
            target.write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(text)


def _tell(learned: Learned) -> None:
    for title, lines in (("", learned.doubts), ("not allowed: ", learned.not_allowed)):
        for line in lines[:_SHOWN_LINES]:
            click.echo(f"ebpfaudit: {title}{line}", err=True)
        if len(lines) > _SHOWN_LINES:
            click.echo(f"ebpfaudit: {title}{len(lines) - _SHOWN_LINES:,} more", err=True)
