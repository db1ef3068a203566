"""A clock that is wrong is corrected by what servers say, and one that is right is left alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl import clock

TRUE = 1_790_000_000.0


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = clock._behind
    yield
    clock._behind = before


@given(ahead=st.floats(-900, 900), took=st.floats(0, 60), at=st.floats(0, 1))
def test_what_is_learned_is_right_by_as_much_as_an_answer_takes(ahead: float, took: float, at: float) -> None:
    clock._behind = 0.0
    asked = TRUE + ahead
    date = float(int(TRUE + took * at))
    behind = clock.heard(date, asked, asked + took)
    assert abs(behind + ahead) <= took + 1 + clock.TOLERATED
    if ahead == 0:
        assert behind == 0


def test_a_slow_answer_of_a_server_with_the_same_clock_teaches_nothing() -> None:
    clock._behind = 0.0
    for date in (TRUE, TRUE + 20, TRUE + 45):
        assert clock.heard(date, TRUE, TRUE + 45) == 0
