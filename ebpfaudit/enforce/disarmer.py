"""What keeps a kill loop from going on for ever."""

from __future__ import annotations

from collections import deque
from typing import Literal


class Disarmer:
    """Judges every kill that is about to be carried out, by how many there were in the last `window_s`.

    More than `limit` of them mean that something respawns the offender faster than it dies. Usually that is
    the agent's own harness, in another tree of the same episode: the first time, the answer is "escalate",
    kill the whole episode. If kills go on after that, the respawner is outside the episode, or a rule is
    wrong for this host; only a person can help, and each kill beyond the limit is refused. Refused kills do
    not count, so that `limit` per window are always carried out: an offender cannot switch enforcement off
    by offending often.
    """

    def __init__(self, limit: int = 100, window_s: float = 60.0) -> None:
        self.limit = limit
        self.window_s = window_s
        self._window_ns = int(window_s * 1e9)
        self._kills: deque[int] = deque()
        self._escalated = False

    def judge(self, now_ns: int) -> Literal["kill", "escalate", "refuse"]:
        """What to do about a kill wanted at `now_ns` (any clock that does not go back)."""
        while self._kills and now_ns - self._kills[0] >= self._window_ns:
            self._kills.popleft()
        if len(self._kills) < self.limit:
            self._kills.append(now_ns)
            return "kill"
        if self._escalated:
            return "refuse"
        self._escalated = True
        self._kills.clear()
        return "escalate"
