"""What a process really runs: behind the dynamic linker, a `#!` line, or an interpreter.

All by the arguments alone, in time linear in their length.
"""

from __future__ import annotations

import posixpath
import re
from functools import lru_cache

from msgspec import Struct

from ebpfaudit.process import Process

_LINKER = re.compile(r"ld\.so|ld-.*\.so.*")
_LINKER_VALUES = frozenset(
    ("--library-path", "--inhibit-rpath", "--audit", "--preload", "--argv0", "--glibc-hwcaps-mask", "--glibc-hwcaps-prepend")
)  # fmt: skip
_TEMPORARY = ("/tmp/", "/var/tmp/", "/dev/shm/", "/run/shm/")
_MAX_DEPTH = 4
"""Of linkers that run linkers."""
_MAX_LIBRARY_PATHS = 8
_MAX_PATH = 4 * 4096
"""The kernel opens no longer path (PATH_MAX); a byte is shown as four characters at most."""


class _Interpreter(Struct, frozen=True):
    """How a program takes code: letters and long options that are followed by code, or by another value."""

    code: str
    values: str
    code_names: tuple[str, ...] = ()
    value_names: tuple[str, ...] = ()
    module: str = ""
    """A letter after which no script follows."""
    file: str = ""
    """A letter whose value is the script."""


_SHELL = _Interpreter("c", "oO", value_names=("--rcfile", "--init-file"))
_PYTHON = _Interpreter("c", "WXQ", value_names=("--check-hash-based-pycs",), module="m")
_NODE = _Interpreter(
    "ep", "rC", ("--eval", "--print"), ("--require", "--import", "--loader", "--conditions", "--env-file")
)
_INTERPRETERS = (
    (re.compile(r"(ba|da|z|k|mk|pdk|a|fi|ya|c|tc|rba)?sh([-.]?\d[\d.]*)?(-static)?"), _SHELL),
    (re.compile(r"(python|pypy)[\d.]*[a-z]*"), _PYTHON),
    (re.compile(r"perl[\d.]*"), _Interpreter("eE", "I")),
    (re.compile(r"j?ruby[\d.]*"), _Interpreter("e", "IrEC")),
    (re.compile(r"(node|nodejs|bun)[\d.]*"), _NODE),
    (re.compile(r"php[\d.]*(-cgi)?"), _Interpreter("rRBE", "dcztS", ("--run",), ("--define", "--php-ini"), file="fF")),
    (re.compile(r"lua(jit)?[-\d.]*"), _Interpreter("e", "l")),
)  # fmt: skip


def programs_of(process: Process) -> tuple[str, ...]:
    """Every path that what the process runs goes by: its executable; the script of a `#!` line; what the dynamic
    linker was told to run; an interpreter's script. Remembered until the next exec."""
    programs = process.programs
    if programs is None:
        if not process.script and _runner(process.exe) is None:
            programs = process.programs = (process.exe,) if process.exe else ()
            return programs
        found = [process.exe, process.script, *_told(process.exe, process.argv, process.cwd)[1]]
        programs = process.programs = tuple(dict.fromkeys(path for path in found if path))
    return programs


def runs_inline_code(process: Process) -> bool:
    """An interpreter was given its program in an argument (`-c`, `-e`, `--eval`)."""
    return _told(process.exe, process.argv, process.cwd)[0]


def is_linker(exe: str) -> bool:
    """The dynamic linker itself was executed: what runs is one of its arguments."""
    return _runner(exe) == "linker"


def is_temporary(process: Process) -> bool:
    """The executable lies where anybody may write, or nowhere any more."""
    return process.memfd or process.deleted or process.exe.startswith(_TEMPORARY)


def _told(exe: str, argv: tuple[str, ...], cwd: str) -> tuple[bool, list[str]]:
    """Whether it was given code, and the paths it was told to run."""
    told: list[str] = []
    rest = list(argv[1:])
    for _ in range(_MAX_DEPTH):
        runner = _runner(exe)
        if runner == "linker":
            paths, rest = _linked(rest, cwd)
            told += paths
            if not paths:
                return False, told
            exe = paths[0]
            continue
        if runner == "busybox":
            name = argv[0].rpartition("/")[2] if argv else ""
            if name == "busybox" and rest:
                name, *rest = rest
            runner = _runner(name)
        if isinstance(runner, _Interpreter):
            inline, script = _interpreted(runner, rest)
            return inline, [*told, _joined(script, cwd)] if script else told
        break
    return False, told


@lru_cache(maxsize=1024)
def _runner(exe: str) -> _Interpreter | str | None:
    """What runs another program that its arguments name: an interpreter, "linker" or "busybox"; None: not this one."""
    name = exe.rpartition("/")[2]
    if _LINKER.fullmatch(name):
        return "linker"
    if name == "busybox":
        return name
    return next((interpreter for pattern, interpreter in _INTERPRETERS if pattern.fullmatch(name)), None)


def _linked(arguments: list[str], cwd: str) -> tuple[list[str], list[str]]:
    """What the linker was told to run, by every path it may be found at, and its arguments."""
    folders: list[str] = []
    position = 0
    while position < len(arguments):
        name, equals, value = arguments[position].partition("=")
        if not name.startswith("-"):
            break
        position += 1
        if name in _LINKER_VALUES and not equals:
            value = arguments[position] if position < len(arguments) else ""
            position += 1
        if name == "--library-path":
            folders = value.split(":", _MAX_LIBRARY_PATHS)[:_MAX_LIBRARY_PATHS]
        if name == "--":
            break
    if position >= len(arguments):
        return [], []
    program = arguments[position]
    paths = [_joined(program, cwd)]
    if "/" not in program:  # the linker looks for it as for a library
        paths += [_joined(f"{folder}/{program}", cwd) for folder in folders if folder]
    return paths, arguments[position + 1 :]


def _interpreted(interpreter: _Interpreter, arguments: list[str]) -> tuple[bool, str]:
    """Whether code is among the arguments; else the script, "" if there is none."""
    find_letter = _letters(interpreter).search
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            return False, next(waiting, "")
        if argument.startswith("--"):
            name, equals, _ = argument.partition("=")
            if name in interpreter.code_names:
                return True, ""
            if name in interpreter.value_names and not equals:
                next(waiting, "")
        elif argument[:1] in ("-", "+") and len(argument) > 1:
            if (met := find_letter(argument, 1)) is not None:
                letter = met[0]
                if letter in interpreter.code:
                    return True, ""
                if letter == interpreter.module:
                    return False, ""
                value = argument[met.end() :] or next(waiting, "")
                if letter in interpreter.file:
                    return False, value
        else:
            return False, "" if argument == "-" else argument
    return False, ""


@lru_cache(maxsize=16)
def _letters(interpreter: _Interpreter) -> re.Pattern[str]:
    """Any of the letters that say what follows."""
    return re.compile(f"[{interpreter.code}{interpreter.values}{interpreter.module}{interpreter.file}]")


def _joined(path: str, cwd: str) -> str:
    if len(path) > _MAX_PATH:
        return ""
    if path.startswith("/"):
        return posixpath.normpath(path) if "/." in path or "//" in path else path
    return posixpath.normpath(f"{cwd}/{path}") if cwd.startswith("/") else path
