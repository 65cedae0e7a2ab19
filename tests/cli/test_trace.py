"""`ebpfaudit trace` as it is typed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

MAIN = "from ebpfaudit.cli import main; main()"
needs_kernel = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def trace(*arguments):
    command = [sys.executable, "-c", MAIN, "trace", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")


@contextlib.contextmanager
def watching(*arguments, stdout=subprocess.PIPE):
    """A trace that is attached. It is ended if the test did not."""
    command = [sys.executable, "-c", MAIN, "trace", *arguments]
    process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd="/")
    try:
        first = process.stderr.readline()
        assert "watching" in first, first + process.stderr.read()
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def ended(process, number=signal.SIGINT):
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--duration", "5x"], "'5x' is not a duration such as 5s"),
        (["--duration", "0s"], "is not a duration"),
        (["--kind", "exec,conect"], "'conect' is none of exec, connect"),
        (["--count", "0"], "0 is not in the range"),
        (["--pid", "4194305"], "there is no process 4194305"),
        (["--episode", "ep-1", "--pid", "1"], "give one of them"),
        (["--cgroup", "/nowhere"], "there is no cgroup /nowhere"),
    ],
)
def test_a_mistake_is_named_and_is_a_usage_error(arguments, said):
    result = trace(*arguments)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


class TestLive:
    pytestmark = needs_kernel

    def test_every_program_is_seen_as_json(self):
        with watching("--kind", "exec", "--json") as process:
            for number in range(23):
                subprocess.run(["/bin/echo", "traced", str(number)], stdout=subprocess.DEVNULL, check=True)
            time.sleep(0.3)
            code, out, err = ended(process)
        assert code == 0
        events = [json.loads(line) for line in out.splitlines()]
        seen = [event["argv"] for event in events if event["argv"][1:2] == ["traced"]]
        assert seen == [["/bin/echo", "traced", str(number)] for number in range(23)]
        assert all(event["kind"] == "exec" and event["time"].endswith("Z") for event in events)
        assert " 0 lost" in err

    def test_columns_behind_a_pipe_fit_and_have_no_colour(self):
        with watching("--kind", "exec") as process:
            subprocess.run(["/bin/echo", "\x1b[2J[red]" + "x" * 200], stdout=subprocess.DEVNULL, check=True)
            time.sleep(0.3)
            _, out, _ = ended(process)
        assert r"\x1b[2J[red]" in out
        assert "\x1b" not in out
        assert max(map(len, out.splitlines())) <= 80

    def test_a_process_with_its_descendants_and_nobody_else(self):
        with (
            subprocess.Popen(
                ["/bin/sh"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
            ) as shell,
            watching("--pid", str(shell.pid), "--kind", "exec", "--json") as process,
        ):
            subprocess.run(["/bin/echo", "outside"], stdout=subprocess.DEVNULL, check=True)
            shell.communicate("(setsid sh -c '/bin/echo inside; exit') & wait; /bin/echo last; exit\n")
            time.sleep(0.3)
            _, out, _ = ended(process)
        arguments = [argument for line in out.splitlines() for argument in json.loads(line).get("argv", [])]
        assert "inside" in arguments
        assert "last" in arguments
        assert "outside" not in arguments

    def test_count_and_duration_end_it(self):
        began = time.monotonic()
        assert trace("--duration", "500ms").returncode == 0
        assert time.monotonic() - began < 20
        with watching("--kind", "exec", "--count", "3") as process:
            for _ in range(7):
                subprocess.run(["/bin/true"], check=True)
            out, _ = process.communicate(timeout=30)
        assert len(out.splitlines()) == 3

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_ends_it_with_a_count(self, number):
        with watching() as process:
            code, _, err = ended(process, number)
        assert code == 0
        assert "events shown" in err
        assert "Traceback" not in err

    def test_a_reader_that_goes_away_is_no_error(self):
        with watching("--kind", "exec") as process:
            process.stdout.close()
            deadline = time.monotonic() + 20
            while process.poll() is None and time.monotonic() < deadline:
                subprocess.run(["/bin/true"], check=True)
                time.sleep(0.05)
            assert process.wait(timeout=1) == 0
            assert "Traceback" not in process.stderr.read()
            process.stdout = None
