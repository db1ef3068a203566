"""The pages of a listing, each of which S3 looks up while the one before is read here."""

from __future__ import annotations

import contextlib
import html
import queue
import re
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from runctl.agent.answers import parsed
from runctl.agent.failures import StoreAway

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

Ask = Callable[[str], bytes]
"""Answers the body of the page that begins at a continuation token; the first one's is empty."""

_TORN = 6
"""How often one page may come torn."""
_AHEAD = 2
_NEXT = re.compile(rb"<(?:\w+:)?NextContinuationToken>([^<]*)<")


def pages(ask: Ask) -> Iterator[tuple[Element, str]]:
    """Every page, in order, and what stands before its tags. Raises StoreAway, and what `ask` raises."""
    token, torn = "", 0
    coming = _Coming(ask, token)
    try:
        while True:
            asked, body = coming.next()
            if asked != token:  # what looked like the next token was none
                coming = coming.anew(token)
                continue
            if isinstance(body, BaseException):
                raise body
            try:
                root, space = parsed(body, "listing")
            except StoreAway:
                torn += 1
                if torn == _TORN:
                    raise
                coming = coming.anew(token)
                continue
            yield root, space
            token, torn = root.findtext(f"{space}NextContinuationToken") or "", 0
            if not token:
                coming.end()
                return
    finally:
        coming.leave()


class _Coming:
    """Pages that a thread fetches ahead, by tokens that it finds without parsing them."""

    def __init__(self, ask: Ask, token: str) -> None:
        self._ask = ask
        self._found: queue.Queue[tuple[str | None, bytes | BaseException]] = queue.Queue(_AHEAD)
        self._left = threading.Event()
        # A daemon: it keeps nobody from leaving.
        self._thread = threading.Thread(target=self._fetch, args=(token,), name="listing", daemon=True)
        self._thread.start()

    def next(self) -> tuple[str | None, bytes | BaseException]:
        """The next page's token, None after the last, with its body or what asking for it raised."""
        return self._found.get()

    def anew(self, token: str) -> _Coming:
        """Instead of these pages, those from `token` on."""
        self.leave()
        return _Coming(self._ask, token)

    def end(self) -> None:
        """Wait for the thread, whose work is done: the process may be forked afterwards."""
        self.leave()
        self._thread.join()

    def leave(self) -> None:
        """Let the thread end; it may wait for room."""
        self._left.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._found.get_nowait()

    def _fetch(self, token: str) -> None:
        while not self._left.is_set():
            try:
                body = self._ask(token)
            except BaseException as error:  # it is the reader's
                self._found.put((token, error))
                return
            self._found.put((token, body))
            if (following := _NEXT.search(body)) is None:
                break
            token = html.unescape(following[1].decode("utf-8", "replace"))
        self._found.put((None, b""))
