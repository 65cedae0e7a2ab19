import io

from ebpfaudit.events import Connect, EpisodeStart, Exec, Fork, GpuCount, Lost
from ebpfaudit.output.clock import WallClock
from ebpfaudit.output.console import Console
from ebpfaudit.output.live import Live
from ebpfaudit.output.selection import KINDS, USUAL, Selection
from ebpfaudit.verdicts import Verdict


def run(pid):
    return Exec(1, pid, 7, 1, "/bin/x", ("x",), "/", "x", 0)


def connect(pid):
    return Connect(1, pid, 7, "x", "ipv4", "tcp", "192.0.2.1", 80)


def test_kinds_and_episodes():
    selection = Selection(kinds=["gpu"], episodes=["ep-1"])
    assert selection.admits("ep-1", GpuCount(1, 2, 3, "submit", "nvidia:0", 4))
    assert not selection.admits("ep-2", GpuCount(1, 2, 3, "submit", "nvidia:0", 4))
    assert not selection.admits("ep-1", run(2))


def test_a_loss_is_always_shown():
    assert Selection(kinds=["gpu"]).admits("ep-1", Lost(1, 4))
    assert not Selection(episodes=["ep-2"]).admits("ep-1", Lost(1, 4)), "of what is shown"


def test_what_is_usual_leaves_out_only_what_is_noise():
    assert set(KINDS) - set(USUAL) == {"fork", "seen"}


class Sink:
    def __init__(self):
        self.written = []

    def write(self, episode, seq, item, about=None):
        self.written.append((episode, seq, type(item).__name__, about))

    def flush(self):
        pass


def test_numbers_are_those_of_the_episode_whatever_is_hidden():
    sink = Sink()
    live = Live(Selection(kinds=["connect", "verdict"]), sink, WallClock(0))
    offence = connect(10)
    live.take("a", [EpisodeStart(1, "a", "p", 1, 1), run(10)])
    live.take("b", [connect(20)])
    live.take("a", [offence, Verdict(2, "kill", "r", "dst", "x"), Fork(1, 10, 7, 11, 8), connect(10)])
    assert [(episode, seq, kind) for episode, seq, kind, _ in sink.written] == [
        ("b", 0, "Connect"),
        ("a", 2, "Connect"),
        ("a", -1, "Verdict"),
        ("a", 4, "Connect"),
    ]
    assert sink.written[2][3] is offence
    assert (live.seen, live.shown) == (7, 4)


def test_enough_is_enough():
    stream = io.StringIO()
    clock = WallClock(0)
    live = Live(Selection(), Console(stream, clock), clock, count=3)
    live.take("a", [run(1), run(2)])
    assert not live.done
    live.take("a", [run(3), run(4)])
    live.flush()
    assert live.done
    assert len(stream.getvalue().splitlines()) == 3
