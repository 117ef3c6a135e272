"""Endpoints that are names: looked up, and looked up again when the far end cannot be reached.

A name is asked for at the start, with back-off until it resolves; after each move to another path,
where it may resolve to something else; and where handshakes go unanswered, with back-off too. What
comes back changes a peer only if it has to:

    lookup fails                                 the old address stays
    the address in use is among the answers      it stays, unless handshakes are failing and there
                                                 is another one: then that is tried, in turn
    it is not, and it is what the name last gave  the peer moves to the first answer
    it is not, because the peer has roamed        it stays, unless handshakes are failing

`Renewal` and `choose` are pure; `Names` is their shell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from providers.wireguard.fromconfig import literal
from providers.wireguard.messages import SECOND
from tunnel import TunnelError

if TYPE_CHECKING:
    from tunnel import Address, Config, HostPort

#: Seconds until a name that did not resolve is looked up again, doubled each time.
FIRST_PAUSE: Final = 1.0
LAST_PAUSE: Final = 60.0
#: So many initiations in a row without an answer cast doubt on the address (5 s each).
DOUBTFUL_ATTEMPTS: Final = 3
#: Nanoseconds between two lookups for handshakes that fail, doubled each time.
RENEW_FIRST: Final = 30 * SECOND
RENEW_LAST: Final = 600 * SECOND


class Renewal:
    """When a peer's failing handshakes are a reason to look its name up again."""

    def __init__(self) -> None:
        self._pause = RENEW_FIRST
        self._next = 0

    def due(self, attempts: int, up: bool, now: int) -> bool:
        """Tell whether to look it up now (ns), after so many initiations without an answer."""
        if up:
            self._pause, self._next = RENEW_FIRST, 0
        if up or attempts < DOUBTFUL_ATTEMPTS or now < self._next:
            return False
        self._next = now + self._pause
        self._pause = min(2 * self._pause, RENEW_LAST)
        return True


def choose(
    answers: Sequence[Address], now: Address | None, before: Address | None, *, failing: bool
) -> Address | None:
    """Return the address to move a peer to; None leaves it where it is.

    `now` is the one in use, `before` the one that the name last gave.
    """
    if not answers:
        return None
    if now is None:
        return answers[0]
    if now in answers:
        others = len(answers) > 1 and failing
        return answers[(answers.index(now) + 1) % len(answers)] if others else None
    return answers[0] if failing or now == before else None


class Names:
    """The names of a configuration's peers.

    `resolve` is the session's. `current` returns a peer's address in use, and raises KeyError for
    one that is not there any more. `move` takes a peer to another address, `note` tells people
    why it could not.
    """

    def __init__(
        self,
        resolve: Callable[[HostPort], Awaitable[list[Address]]],
        current: Callable[[bytes], Address | None],
        move: Callable[[bytes, Address, int], None],
        note: Callable[[bytes, str], None],
    ) -> None:
        self._resolve = resolve
        self._current = current
        self._move = move
        self._note = note
        self._endpoints: dict[bytes, HostPort] = {}
        self._given: dict[bytes, Address] = {}
        self._renewals: dict[bytes, Renewal] = {}
        self._tasks: dict[bytes, asyncio.Task[None]] = {}

    def use(self, config: Config) -> None:
        """Take a configuration's names, and look up those that are new."""
        before = self._endpoints
        self._endpoints = {
            peer.public_key: peer.endpoint
            for peer in config.peers
            if peer.endpoint is not None and literal(peer.endpoint) is None
        }
        for key in [key for key in before if self._endpoints.get(key) != before[key]]:
            self.forget(key, name=False)
        for key, endpoint in self._endpoints.items():
            if before.get(key) != endpoint:
                self._look_up(key)

    def forget(self, key: bytes, *, name: bool = True) -> None:
        """Ask no more for a peer, whose address somebody has set by hand."""
        if name:
            self._endpoints.pop(key, None)
        self._given.pop(key, None)
        self._renewals.pop(key, None)
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    def moved(self) -> None:
        """Look up every name again: the machine is on another path."""
        for key in self._endpoints:
            self._look_up(key)

    def check(self, state: Callable[[bytes], tuple[int, bool] | None], now: int) -> None:
        """Look up names of peers whose handshakes fail: `state` gives (attempts, up) by key, None
        for a peer that is gone.
        """
        for key in self._endpoints:
            found = state(key)
            if found is None:
                continue
            renewal = self._renewals.setdefault(key, Renewal())
            if renewal.due(*found, now):
                self._look_up(key, failing=True)

    async def close(self) -> None:
        """End every lookup."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        self._tasks.clear()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look_up(self, key: bytes, *, failing: bool = False) -> None:
        running = self._tasks.get(key)
        if running is not None:
            running.cancel()
        work = self._until_answered(key, self._endpoints[key], failing)
        self._tasks[key] = asyncio.create_task(work)

    async def _until_answered(self, key: bytes, endpoint: HostPort, failing: bool) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                answers = await self._resolve(endpoint)
                now = self._current(key)
                break
            except KeyError:
                return
            except TunnelError as error:
                try:
                    if self._current(key) is None:
                        self._note(key, str(error))
                    elif failing:
                        return  # the old address stays, and `Renewal` asks again in its time
                except KeyError:
                    return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)
        chosen = choose(answers, now, self._given.get(key), failing=failing)
        if chosen is not None:
            self._given[key] = chosen
            self._move(key, chosen, endpoint.port)
        elif now in answers and now is not None:
            self._given[key] = now
