"""Imports follow the data: no module knows a later stage. bcc, rich and click stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ebpfaudit

PACKAGE = Path(ebpfaudit.__file__).parent

STAGES = (
    {"", "errors", "text", "resources", "mounts"},
    {"process"},
    {"events"},
    {"verdicts"},
    {"gpu"},
    {"profiles"},
    {"policy"},
    {"stories"},
    {"trail"},
    {"kernel", "enforce", "output", "registry"},
    {"episodes"},
    {"launch"},
    {"pipeline"},
    {"session", "watch"},
    {"cli"},
)
"""Each may import the earlier ones and itself. "" is the package's own __init__."""

FILES = sorted(PACKAGE.rglob("*.py"))


def stage_of(module):
    """(number, name) of the stage of a dotted name inside the package."""
    name = module.partition(".")[0]
    for number, names in enumerate(STAGES):
        if name in names:
            return number, name
    raise AssertionError(f"ebpfaudit.{name} has no place in STAGES: give it one")


def module_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imports(tree, *, run_time_only=True):
    """Every (imported name, is it inside a function) that happens when the program runs."""
    found = []

    def walk(node, inside):
        for child in ast.iter_child_nodes(node):
            if run_time_only and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                for other in child.orelse:
                    walk(other, inside)
            elif isinstance(child, ast.Import):
                found.extend((alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, "relative imports hide where they lead"
                if child.module == "ebpfaudit":  # from ebpfaudit import pipeline
                    found.extend((f"ebpfaudit.{alias.name}", inside) for alias in child.names)
                else:
                    found.append((child.module, inside))
            else:
                walk(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    walk(tree, False)
    return found


def is_module(name):
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()


def backward_imports(source, module):
    own_number, own_stage = stage_of(module)
    wrong = []
    for name, _ in imports(ast.parse(source)):
        top, _, rest = name.partition(".")
        if top != "ebpfaudit" or not is_module(rest.partition(".")[0]):
            continue  # another package, or a name such as ebpfaudit.__version__
        number, stage = stage_of(rest)
        beside = number == own_number > 0 and stage != own_stage
        if number > own_number or beside:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path) or "ebpfaudit")
def test_no_module_imports_a_later_stage(path):
    assert backward_imports(path.read_text(), module_of(path)) == []


def test_a_backward_import_would_be_found():
    assert backward_imports("from ebpfaudit.pipeline import Pipeline", "policy.rules") == [
        "ebpfaudit.pipeline"
    ]
    assert backward_imports("def f():\n    from ebpfaudit import cli", "trail.writer") == ["ebpfaudit.cli"]
    assert backward_imports("import ebpfaudit.kernel.ring", "output.console") == ["ebpfaudit.kernel.ring"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path) or "ebpfaudit")
def test_bcc_rich_and_click_stay_where_they_belong(path):
    stage = module_of(path).partition(".")[0]
    for name, inside in imports(ast.parse(path.read_text()), run_time_only=False):
        top = name.partition(".")[0]
        if top == "bcc":
            assert stage == "kernel" and inside, f"{name}: bcc only in kernel/, inside a function"
        if top in ("rich", "click"):
            assert stage in ("output", "cli"), f"{name} outside output/ and cli/"


WITHOUT_BCC = "import sys; sys.modules['bcc'] = None; from ebpfaudit.cli import main; main()"


def run_without_bcc(*arguments):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_BCC, *arguments], capture_output=True, text=True, timeout=60, cwd="/"
    )


@pytest.mark.parametrize("command", ["run", "trace", "replay", "verify", "profile", "doctor"])
def test_help_needs_no_bcc(command):
    result = run_without_bcc(command, "--help")
    assert result.returncode == 0, result.stderr
    assert "Usage:" in result.stdout


def test_a_profile_is_checked_without_bcc(tmp_path):
    profile = tmp_path / "quiet.toml"
    profile.write_text(
        'name = "quiet"\ndescription = "Nothing but loopback."\n\n[network]\ndefault = "deny"\n'
        'allow = ["loopback"]\n'
    )
    result = run_without_bcc("profile", "check", str(profile))
    assert result.returncode == 0, result.stdout + result.stderr


def test_what_replay_imports_is_not_the_kernel_side():
    code = (
        "import ebpfaudit.cli.replay, sys; "
        "print([name for name in sys.modules if name.startswith(('bcc', 'ebpfaudit.kernel'))])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd="/")
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_starting_up_imports_no_heavy_module():
    code = "import ebpfaudit.cli, sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd="/")
    assert not {"rich", "bcc", "zstandard", "msgspec"} & set(result.stdout.split())
