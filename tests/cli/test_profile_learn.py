"""`ebpfaudit profile learn` as it is typed, on written trails and on what real programs did."""

import os
import subprocess
import sys

import pytest
from audited import NO_POLICY, PYTHON
from recorded import write_trail

from ebpfaudit.events import Connect, EpisodeStart, Exec
from ebpfaudit.policy.evaluator import Evaluator
from ebpfaudit.profiles.load import load_profile
from ebpfaudit.trail.reader import read_trail
from ebpfaudit.verdicts import Enforcement, Verdict

MAIN = "from ebpfaudit.cli import main; main()"
EVENTS = [
    EpisodeStart(5_000_000_000, "ep-1", "quiet", 100, 40),
    Exec(5_100_000_000, 100, 40, 1, "/usr/bin/curl", ("curl", "x"), "/w", "curl", 1000),
    Connect(6_000_000_000, 100, 40, "curl", "ipv4", "tcp", "10.0.0.1", 443),
    Connect(6_000_000_000, 100, 40, "curl", "ipv4", "tcp", "169.254.169.254", 80),
]


def profile(*arguments, **options):
    command = [sys.executable, "-c", MAIN, "profile", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture
def trail(tmp_path):
    path = tmp_path / "ep-1.jsonl.zst"
    write_trail(path, EVENTS)
    return path


def test_a_profile_comes_on_stdout_and_what_is_left_out_on_stderr(trail):
    result = profile("learn", trail)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("# Learned by ebpfaudit ")
    assert 'name = "learned"\n' in result.stdout
    assert '"10.0.0.1:443/tcp",  # 1x, curl; first: ep-1.jsonl.zst event 2\n' in result.stdout
    assert " by base: network, dst" in result.stderr


def test_a_file_is_sound_and_changes_nothing_but_the_denials(trail, tmp_path):
    target = tmp_path / "mine.toml"
    result = profile("learn", trail, "-o", target, "--extends", "base")
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert profile("check", target).returncode == 0
    judged = profile("diff", "base", target, "--trails", trail)
    assert judged.returncode in (0, 1), judged.stderr
    assert "DENY" not in judged.stdout
    assert load_profile(str(target)).name == "mine"


def test_the_order_of_trails_does_not_matter(trail, tmp_path):
    other = tmp_path / "other.jsonl.zst"
    write_trail(other, [EVENTS[0], Connect(6_000_000_000, 100, 40, "x", "ipv4", "tcp", "10.0.0.2", 80)])
    one, two = profile("learn", trail, other), profile("learn", other, trail)
    assert one.stdout == two.stdout
    assert "10.0.0.2:80/tcp" in one.stdout


def test_a_profile_by_path_is_extended_from_anywhere(trail, tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('name = "own"\ndescription = ""\nextends = "base"\n[network]\ndeny = ["10.0.0.0/8"]\n')
    target = tmp_path / "deep" / "mine.toml"
    target.parent.mkdir()
    result = profile("learn", trail, "--extends", "./own.toml", "-o", target, "--name", "agent", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    learned = load_profile(str(target))
    assert learned.name == "agent"
    assert "allow" not in {entry.action for entry in learned.network.entries}
    assert "deny by" in result.stderr


def test_a_damaged_trail_is_said_and_learned_as_far_as_it_goes(trail):
    data = bytearray(trail.read_bytes())
    data[-1] ^= 1
    trail.write_bytes(data)
    result = profile("learn", trail)
    assert result.returncode == 1
    assert "# Beware: ep-1.jsonl.zst is not whole: " in result.stdout
    assert "is not whole" in result.stderr


def test_no_trail_no_profile(tmp_path):
    target = tmp_path / "x.toml"
    result = profile("learn", tmp_path / "none", "-o", target)
    assert result.returncode == 125
    assert result.stderr.startswith("Error: cannot read the trail")
    assert list(tmp_path.iterdir()) == []


WORK = """
import os, socket, subprocess, tempfile, threading
servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
for server in servers:
    socket.create_connection(server.getsockname()).close()
with tempfile.TemporaryDirectory() as folder:
    server = socket.socket(socket.AF_UNIX)
    server.bind(folder + "/s")
    server.listen()
    socket.socket(socket.AF_UNIX).connect(folder + "/s")
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))
subprocess.run(["/bin/true"])
"""


@pytest.mark.kernel
def test_what_a_real_episode_did_is_allowed_again(auditor, tmp_path):
    ended = auditor.run(NO_POLICY, [*PYTHON, "-c", WORK])
    assert ended.exit_code == 0, ended.stderr
    recorded = next(tmp_path.glob("*.jsonl.zst"))
    target = tmp_path / "learned.toml"
    result = profile("learn", recorded, "-o", target)
    assert result.returncode == 0, result.stderr
    learned = load_profile(str(target))
    tight, base = Evaluator(learned), Evaluator(load_profile("base"))
    with read_trail(recorded) as trail:
        for item in trail:
            if not isinstance(item, Verdict | Enforcement):
                assert tight.evaluate(item) == base.evaluate(item)
    assert {"unix:/tmp/tmp*", "loopback:9/udp"} <= {entry.text for entry in learned.network.entries}
    # And it does again, under that profile, enforced.
    again = auditor.run(
        target.read_text(), [*PYTHON, "-c", WORK.replace("for server in servers", "for server in ()")]
    )
    assert again.exit_code == 0, again.stderr
    assert [verdict for verdict in again.verdicts if verdict.action != "log"] == []


def test_a_pipe_is_written_to_and_not_replaced(trail, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        assert profile("learn", trail, "-o", pipe).returncode == 0
        assert reader.communicate(timeout=30)[0].startswith("# Learned by ebpfaudit ")
    assert pipe.is_fifo()


def test_a_link_stays_a_link(trail, tmp_path):
    (tmp_path / "link.toml").symlink_to("real.toml")
    assert profile("learn", trail, "-o", tmp_path / "link.toml").returncode == 0
    assert (tmp_path / "link.toml").is_symlink() and (tmp_path / "real.toml").is_file()
