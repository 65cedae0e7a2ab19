import os
import signal
import time

import pytest

from ebpfaudit.errors import EpisodeError
from ebpfaudit.registry import Registration, active, take


def test_an_active_episode_cannot_be_taken_again(tmp_path):
    seat = take("ep/1", tmp_path)
    seat.update(Registration("ep/1", "base", 4711))
    with pytest.raises(EpisodeError, match=r"already being audited.*4711"):
        take("ep/1", tmp_path)
    assert [each.episode for each in active(tmp_path)] == ["ep/1"]
    seat.release()
    assert list(active(tmp_path)) == []
    take("ep/1", tmp_path).release()


def test_a_killed_auditor_blocks_nothing(tmp_path):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        take("ep", tmp_path).update(Registration("ep", "base", os.getpid()))
        os.write(write, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(read, 1)
    os.close(read)
    os.close(write)
    with pytest.raises(EpisodeError):
        take("ep", tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert list(active(tmp_path)) == []
    assert len(list(tmp_path.iterdir())) == 1
    other = take("other", tmp_path)
    assert len(list(tmp_path.iterdir())) == 1, "what the killed one left is cleared away"
    other.release()


def test_two_ids_are_two_seats(tmp_path):
    first, second = take("a", tmp_path), take("a/../a", tmp_path)
    first.release()
    second.release()
