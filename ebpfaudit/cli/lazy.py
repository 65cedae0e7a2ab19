"""A group of commands whose modules are imported only when one is called."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click


class ReaderLeftError(Exception):
    """Whoever read our output has gone."""


class LazyGroup(click.Group):
    """Knows its commands as {name: "module:object"}. Start-up time is time an agent is not watched."""

    def __init__(self, *args: Any, commands_at: dict[str, str], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._commands_at = commands_at

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._commands_at)

    def invoke(self, ctx: click.Context) -> Any:
        """Raises ReaderLeftError where click would exit with 1, which means something here."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderLeftError from error

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._commands_at:
            return None
        module, name = self._commands_at[cmd_name].split(":")
        command: click.Command = getattr(import_module(module), name)
        return command
