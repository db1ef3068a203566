"""Listings that are fetched ahead: whatever was guessed of the next page, every page comes once, in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.agent.failures import StoreAway
from runctl.storage.compare import Comparison, Order, as_listed, compare
from runctl.storage.entries import Entry
from runctl.storage.pages import pages

TOKENS = st.lists(st.text(st.sampled_from("ab1/+=&<\"'é "), min_size=1, max_size=5), unique=True, max_size=6)


def body(keys: str, token: str, *, decoy: str = "") -> bytes:
    """A page; `decoy` is something that looks like a token, and is none."""
    following = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
    hidden = f"<!-- <NextContinuationToken>{decoy}</NextContinuationToken> -->" if decoy else ""
    return f"<List>{hidden}<Key>{keys}</Key>{following}</List>".encode()


class Listing:
    """Pages by their tokens, of which some come torn or fail at first."""

    def __init__(self, tokens: list[str], *, decoys: set[int], torn: set[int]) -> None:
        self.tokens = ["", *tokens]
        self.decoys = decoys
        self.torn = set(torn)

    def __call__(self, token: str) -> bytes:
        if token not in self.tokens:
            raise StoreAway(f"no such page: {token}")
        at = self.tokens.index(token)
        whole = body(str(at), (*self.tokens[1:], "")[at], decoy="elsewhere" if at in self.decoys else "")
        if at in self.torn:
            self.torn.remove(at)
            return whole[:-9]
        return whole

    def read(self) -> list[int]:
        return [int(root.findtext("Key") or -1) for root, _ in pages(self)]


@given(TOKENS, st.sets(st.integers(0, 6)), st.sets(st.integers(0, 6)))
def test_every_page_comes_once_in_order(tokens: list[str], decoys: set[int], torn: set[int]) -> None:
    assert Listing(tokens, decoys=decoys, torn=torn).read() == list(range(len(tokens) + 1))


def test_the_next_page_is_asked_for_while_one_is_read() -> None:
    asked = threading.Event()

    def ask(token: str) -> bytes:
        if token:
            asked.set()
        return body("0", "" if token else "next")

    found = pages(ask)
    next(found)
    assert asked.wait(10)
    assert len(list(found)) == 1


def test_after_the_last_page_no_thread_is_left() -> None:
    """Whoever has listed may fork, also where the last page seems to have another behind it."""
    before, later = set(threading.enumerate()), threading.Event()
    threading.Timer(0.2, later.set).start()

    def ask(token: str) -> bytes:
        assert not token or later.wait(10)
        return body("0", "", decoy="elsewhere")

    assert len(list(pages(ask))) == 1
    assert {thread for thread in threading.enumerate() if thread.name == "listing"} <= before


def test_a_page_that_is_torn_each_time_is_given_up() -> None:
    with pytest.raises(StoreAway, match="torn"):
        list(pages(lambda _: b"<List><Key>"))


def test_what_asking_raises_comes_after_the_pages_before_it() -> None:
    def ask(token: str) -> bytes:
        if token:
            raise StoreAway("away")
        return body("0", "next")

    found = pages(ask)
    assert next(found)[0].findtext("Key") == "0"
    with pytest.raises(StoreAway, match="away"):
        next(found)


def test_who_leaves_early_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    found = pages(lambda token: body("0", f"{token}x"))
    next(found)
    found.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


@given(st.permutations("abcdef"), st.permutations("bcdxyz"))
def test_a_store_with_an_order_of_its_own_is_compared_all_the_same(here: list[str], there: list[str]) -> None:
    def plan(order: Order) -> Comparison:
        return compare(order(side(here)), order(side(there)), lambda *_: True, extra=True)

    found = as_listed(plan)
    assert [entry.key for entry in found.missing] == ["a", "e", "f"]
    assert [entry.key for entry in found.extra] == ["x", "y", "z"]
    assert found.equal_files == 3


def side(keys: list[str]) -> Iterator[Entry]:
    return (Entry(key, 1, 7, "etag") for key in keys)


def test_a_listing_in_order_is_held_nowhere() -> None:
    """Of a million keys, none need to be in memory at once."""
    taken: list[str] = []

    def listed() -> Iterator[Entry]:
        for entry in side(["a", "b", "c"]):
            taken.append(entry.key)
            yield entry

    def plan(order: Order) -> list[str]:
        first = iter(order(listed()))
        next(first)
        return list(taken)

    assert as_listed(plan) == ["a"]
