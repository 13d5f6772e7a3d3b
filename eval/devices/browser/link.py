"""A page in a browser, as the server knows it: requests, answers, and whether it is there."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from eval.devices.session import Message

HOLD_SECONDS = 5.0
"""How long the server keeps a page waiting that asks for requests while there are none."""
SILENCE_SECONDS = 10.0
"""How long a page may be silent before it counts as gone."""


@dataclass(frozen=True)
class PageFacts:
    """What a page says of its browser.

    Attributes:
        page: drawn by the page when it is loaded.
        num_cores: as the browser reports them; some report fewer than there are.
        is_isolated: whether it may use threads, and has a precise clock.
        webgpu: what WebGPU computes on there; None without an adapter.
    """

    page: Annotated[str, Field(min_length=8, max_length=64)]
    user_agent: Annotated[str, Field(max_length=1000)]
    num_cores: Annotated[int, Field(gt=0)] | None
    is_isolated: bool
    webgpu: Annotated[str, Field(max_length=200)] | None


class PageGone(Exception):
    """The page is not there any more, or it is not the one that answers."""


class Busy(Exception):
    """Another page has the address already."""


class Link:
    """One page at a time. All methods run in the event loop of the server.

    The page asks for requests again and again, so its silence is noticed. A request is sent again
    until its number is confirmed, so a short cut of the network loses nothing.

    Attributes:
        facts: of the page; None while there is none.
        is_over: whether there will be no more requests.
    """

    def __init__(self) -> None:
        self.facts: PageFacts | None = None
        self.is_over = False
        self._numbers = itertools.count(1)
        # A request that nobody waits for has no future.
        self._open: dict[int, tuple[Message, asyncio.Future[Message] | None]] = {}
        self._changed = asyncio.Event()
        self._silence: asyncio.TimerHandle | None = None

    def greet(self, facts: PageFacts) -> None:
        """A page was loaded.

        Raises:
            Busy: another page is there.
        """
        if self.facts is not None and self.facts.page != facts.page:
            raise Busy
        self.facts = facts
        self._expect_word()
        self._notify()

    async def requests(self, page: str, after: int) -> list[Message]:
        """The requests with numbers above `after`; waits until there are some.

        Raises:
            PageGone: the page is not the one that is connected.
        """
        self._check(page)
        self._stop_timer()
        try:
            await self._until(
                lambda: self.is_over or max(self._open, default=0) > after, HOLD_SECONDS
            )
        finally:
            if self.facts is not None and self.facts.page == page:
                self._expect_word()
        self._check(page)
        open_requests = sorted(self._open.items())
        return [{"number": n, **request} for n, (request, _) in open_requests if n > after]

    def answer(self, page: str, number: int, message: Message) -> None:
        """The page answers a request. An answer that nobody waits for is dropped.

        Raises:
            PageGone: the page is not the one that is connected.
        """
        self._check(page)
        _, future = self._open.get(number, (None, None))
        if future is not None and not future.done():
            future.set_result(message)

    def leave(self, page: str) -> None:
        """The page says that it is closed."""
        if self.facts is not None and self.facts.page == page:
            self._lose("its page was closed or loaded again.")

    def end(self) -> None:
        """There will be no more requests."""
        self.is_over = True
        self._notify()

    async def ask(self, request: Message, seconds: float) -> Message:
        """Send a request to the page and wait for its answer.

        Raises:
            PageGone: there is no page, or it went away.
            TimeoutError: it is there and does not answer.
        """
        if self.facts is None:
            raise PageGone("no page is open there.")
        number, future = next(self._numbers), asyncio.get_running_loop().create_future()
        self._open[number] = (request, future)
        self._notify()
        try:
            async with asyncio.timeout(seconds):
                return await future
        finally:
            del self._open[number]

    def tell(self, request: Message) -> None:
        """Send a request and wait for no answer."""
        number = next(self._numbers)
        self._open[number] = (request, None)
        asyncio.get_running_loop().call_later(SILENCE_SECONDS, self._open.pop, number, None)
        self._notify()

    async def wait_for_page(self, seconds: float) -> bool:
        """Whether there is a page, now or within the time."""
        await self._until(lambda: self.facts is not None, seconds)
        return self.facts is not None

    def _check(self, page: str) -> None:
        if self.facts is None or self.facts.page != page:
            raise PageGone("this page is not the one that is measured.")

    def _lose(self, reason: str) -> None:
        self.facts = None
        self._stop_timer()
        for _, future in self._open.values():
            if future is not None and not future.done():
                future.set_exception(PageGone(reason))
        self._notify()

    def _expect_word(self) -> None:
        self._stop_timer()
        self._silence = asyncio.get_running_loop().call_later(
            SILENCE_SECONDS,
            self._lose,
            f"its page was silent for {SILENCE_SECONDS:.0f} s. Its tab is in the background, its "
            "screen is off, or its network is gone.",
        )

    def _stop_timer(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, is_true: Callable[[], bool], seconds: float) -> None:
        """Wait until something is true, or until the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not is_true():
                    await self._changed.wait()
