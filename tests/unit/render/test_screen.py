r"""A log's colours and bars work on a terminal; nothing else that it says is obeyed."""

from __future__ import annotations

import re
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.render.screen import Screen

ALLOWED = re.compile(r"\x1b\[[0-9;:]*m|\x1b\[[0-9]*[ABCDEFGK]|\x1b\[0?J|[\n\r\t\b]")
UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
orders = st.sampled_from(
    [
        *(
            "\x1b",
            "\x1b[",
            "[",
            "]",
            "m",
            "2J",
            "0;1",
            "A",
            "9",
            "B",
            "K",
            "?25l",
            "\x9b",
            "\x07",
            "\n",
            "\r",
        ),
        *("é", "\u202e", "\x1b[31m", "\x1b[2A", "\x1b]0;t\x07", "\x1bP", "x", "\x0e", "\x1bc", "J", "H"),
    ]
)
logs = st.lists(orders, max_size=25).map("".join)


def shown(*pieces: bytes) -> str:
    screen = Screen()
    return b"".join(screen.shown(piece) for piece in pieces).decode()


@given(logs, st.binary(max_size=20))
def test_nothing_but_the_allowed_orders_is_left(text: str, more: bytes) -> None:
    assert not UNSEEN.search(ALLOWED.sub("", shown(text.encode() + more)))


@given(logs, st.lists(st.integers(0, 60), max_size=6))
def test_where_pieces_end_changes_nothing(text: str, cuts: list[int]) -> None:
    data = text.encode()
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    assert shown(*(data[start:end] for start, end in pairwise(ends)), b"..") == shown(data, b"..")


@given(
    st.lists(st.sampled_from(["\n", "\x1b[A", "\x1b[3A", "\x1b[2F", "\x1b[B", "\x1b[9E", "x"]), max_size=40)
)
def test_a_log_never_comes_above_its_first_line_nor_below_its_last(parts: list[str]) -> None:
    line = lowest = 0
    for found in re.finditer(r"\n|\x1b\[(\d*)([A-G])", shown("".join(parts).encode())):
        if found[0] == "\n":
            line += 1
        else:
            line += int(found[1]) * (-1 if found[2] in "AF" else 1)
            assert line <= lowest
        lowest = max(lowest, line)
        assert line >= 0


STRINGS = ("]0;title\x07", "]52;c;ZXZpbA==\x07", "]8;;http://x\x1b\\", "P$q\x1b\\", "_x\x1b\\", "^x\x1b\\")
ESCAPES = ("7", "8", "c", "M", "D", "E", "H", "Z", "(0", ")B", "#8", "=", ">", "%G", "n", "o", " F", "N")
SEQUENCES = (
    *(
        "c",
        "6n",
        "5n",
        "?6n",
        ">c",
        "=c",
        "?1049h",
        "?1000h",
        "?2004h",
        "?25;1049h",
        "=1h",
        ">4;1m",
        "?1m",
        "4h",
    ),
    *(
        "2J",
        "3J",
        "1J",
        "?J",
        "H",
        "1;1H",
        "1;1f",
        "r",
        "s",
        "u",
        "1L",
        "1M",
        "1P",
        "1X",
        "1S",
        "1T",
        "1@",
        "1d",
    ),
    *("5i", "8;1;1t", "11t", "21t", "20l", "!p", "1$p", "2*x", "1;2A", "9;1K", " q", "1'z"),
)
CONTROLS = (
    "\x00",
    "\x05",
    "\x07",
    "\x0b",
    "\x0c",
    "\x0e",
    "\x0f",
    "\x18",
    "\x1a",
    "\x7f",
    "\x84",
    "\x85",
    "\x8d",
)
C1 = (
    "\x9b6n",
    "\x9d0;t\x9c",
    "\x90q",
    "\x9fx\x9c",
    "\x9ac",
    "\u202e",
    "\u2066",
    "\u2028",
    "\ufeff",
    "\U000e0041",
)
ORDERS = [
    *(f"\x1b{order}" for order in (*STRINGS, *ESCAPES)),
    *(f"\x1b[{order}" for order in SEQUENCES),
    "\x1b[" + "1" * 100 + "m",
    *CONTROLS,
    *C1,
]


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_is_shown_instead(order: str) -> None:
    made = shown(b"a" + order.encode() + b"b")
    assert not UNSEEN.search(made)
    assert "\\" in made
    assert made.endswith("b")


def test_the_c1_bytes_of_a_terminal_with_8_bits_are_shown() -> None:
    assert shown(b"\x9b6n\xff") == r"\x9b6n\xff"


def test_bars_and_colours_pass() -> None:
    tqdm = "\r 50%|█████     | 5/10\x1b[A\n\r100%|██████████| 10/10\n"
    assert shown(b"\n" + tqdm.encode()) == "\n" + tqdm.replace("\x1b[A", "\x1b[1A")
    rich = "\x1b[?25l\x1b[2K\x1b[32mWorking \x1b[38;5;237m━━━\x1b[0m\r\x1b[2K\n\x1b[1A\x1b[2K\x1b[?25h"
    assert shown(rich.encode()) == rich.replace("\x1b[?25l", "").replace("\x1b[?25h", "")
    keras = "1/9 [=>...]\b\b\b\x1b[1m 2/9 \x1b[0m"
    assert shown(keras.encode()) == keras
    joined = "👩\u200d💻 ⚠\ufe0f نمی\u200cخواهم\n"
    assert shown(joined.encode()) == joined


def test_before_a_line_of_ours_the_style_ends_and_the_way_up_is_closed() -> None:
    screen = Screen()
    assert screen.settled() == b""
    screen.shown(b"\n\n\x1b[8m\x1b[41m")
    assert screen.settled() == b"\x1b[0m"
    assert screen.settled() == b""
    assert screen.shown(b"\x1b[A") == b""
    screen.shown(b"\x1b[1m\x1b[0m")
    assert screen.settled() == b""


def test_memory_is_bounded_by_the_piece_and_not_by_the_log() -> None:
    screen = Screen()
    pieces = [b"\x1b" * 1000, b"\x1b[" + b"1;" * 500, b"\xc3" * 999, b"x" * 1000]
    tracemalloc.start()
    try:
        for _ in range(300):
            for piece in pieces:
                screen.shown(piece)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
