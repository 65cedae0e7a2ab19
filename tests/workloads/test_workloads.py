"""Ordinary work under the shipped profile raises no alarm: those of the list that need nothing but what setup.sh installs."""

import os
from pathlib import Path

import pytest

from .catalogue import workloads
from .player import Player

PROFILE = str(Path(__file__).parents[2] / "profiles" / "coding-agent.toml")
ALL = workloads()


@pytest.fixture
def player(kernel):
    with Player(PROFILE) as player:
        yield player


def test_there_are_enough_workloads():
    assert len(ALL) >= 70
    assert all(not workload.needs for workload in ALL if workload.ci)


@pytest.mark.kernel
@pytest.mark.parametrize("workload", [each for each in ALL if each.ci], ids=lambda each: each.name)
def test_ordinary_work_raises_no_alarm(player, workload):
    if surplus := workload.missing():
        pytest.skip(surplus)

    played = player.play_one(workload, plain=False)

    assert played.outcome is not None, played.reason
    assert played.outcome.alarms == []
    assert played.outcome.faults(workload) == []


@pytest.mark.kernel
def test_nothing_of_a_stage_is_left(player):
    """Its namespaces end with its processes; neither user, folder, interface nor process outlives it."""
    before = _traces()

    played = player.play_one(
        next(each for each in ALL if each.name.startswith("a process tree")), plain=False
    )

    assert played.outcome is not None, played.reason
    assert _traces() == before


def _traces() -> tuple[str, list[str], list[str]]:
    return Path("/etc/passwd").read_text(), sorted(os.listdir("/srv")), sorted(os.listdir("/sys/class/net"))
