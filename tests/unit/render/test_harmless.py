"""Text of others is shown, and neither obeyed nor hidden; JSON stays exact."""

from __future__ import annotations

import json
import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.render.harmless import LONGEST_LINE, harmless, harmless_json, harmless_lines, is_harmless

any_text = st.text(st.characters(exclude_categories=()), max_size=60)


def is_seen(char: str) -> bool:
    """By Unicode alone: no control, format, separator or surrogate but the space."""
    return char == " " or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


@given(any_text)
def test_only_characters_that_are_seen_are_left_on_one_line(text: str) -> None:
    shown = harmless(text)
    assert all(map(is_seen, shown))
    assert is_harmless(shown)
    assert harmless(shown) == shown
    if all(map(is_seen, text)) and is_harmless(text):
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\nsucceeded", r"a\nsucceeded"),
        ("a\r\tb\x7f", r"a\r\tb\x7f"),
        ("\x9b2J", r"\x9b2J"),
        ("exe.\u202etxt\u2066\u200f\u061c", r"exe.\u202etxt\u2066\u200f\u061c"),
        ("a\u200bb\ufeffc\u2028d\u3164e\ufe01", r"a\u200bb\ufeffc\u2028d\u3164e\ufe01"),
        ("\U000e0041", r"\U000e0041"),
        ("\udc9b\ud800", r"\x9b\ud800"),
        ("é 漢字 [bold]x[/bold] C:\\new", "é 漢字 [bold]x[/bold] C:\\new"),
    ],
)
def test_what_is_obeyed_or_unseen_is_spelled_out(text: str, shown: str) -> None:
    assert harmless(text) == shown


def test_a_long_text_is_cut_and_says_by_how_much() -> None:
    shown = harmless("x" * 10_000_000)
    assert shown == "x" * LONGEST_LINE + "... (9,996,000 more characters)"
    assert harmless("x" * 10_000, longest=None) == "x" * 10_000


def test_a_documents_own_lines_stay() -> None:
    assert harmless_lines("a\x1b\r\nb\u2028c\n\td") == "a\\x1b\r\nb\\u2028c\n\\td"


@given(any_text.map(lambda text: text.encode("utf-8", "replace").decode()))
def test_json_is_harmless_and_says_exactly_the_same(text: str) -> None:
    for written in (
        msgspec.json.encode({text: [text]}).decode(),
        msgspec.json.format(msgspec.json.encode({text: [text]}).decode(), indent=2),
        json.dumps({text: [text]}, ensure_ascii=False),
    ):
        made = harmless_json(written)
        assert json.loads(made) == {text: [text]}
        assert all(is_seen(char) or char == "\n" for char in made)
