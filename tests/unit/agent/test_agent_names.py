"""A name that misleads or gives orders is no file's and no object's, on either side and by one rule."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.agent.names import unfit
from runctl.agent.objects import fault
from runctl.agent.tree import name_fault
from runctl.errors import ValidationError
from runctl.storage.listing import no_key
from runctl.storage.objects import checked_key

characters = st.characters(exclude_characters="/", exclude_categories=())


@given(st.text(characters, max_size=4), characters, st.text(characters, max_size=4))
def test_every_way_to_a_file_or_an_object_refuses_what_is_unfit(before: str, char: str, after: str) -> None:
    name = f"folder/a{before}{char}{after}z"
    if not (why := unfit(name)):
        return
    assert name_fault(name) == fault(name) == no_key(name) == why
    with pytest.raises(ValidationError) as refused:
        checked_key(name)
    assert refused.value.why == why


@given(characters)
def test_controls_separators_and_what_turns_or_hides_text_are_unfit(char: str) -> None:
    kind, turns = unicodedata.category(char), unicodedata.bidirectional(char)
    if kind in {"Cc", "Cs", "Zl", "Zp"} or turns in {
        "LRE",
        "RLE",
        "PDF",
        "LRO",
        "RLO",
        "LRI",
        "RLI",
        "FSI",
        "PDI",
    }:
        assert unfit(char)
    elif kind != "Cf":
        assert not unfit(char) or 0xE0000 <= ord(char) < 0xE0080 or 0x2060 <= ord(char) < 0x2070


def test_honest_names_in_every_script_are_fit() -> None:
    for name in (
        "été ü%2F+?.bin",
        "نمی\u200cخواهم",
        "👩\u200d💻.pt",
        "数据集/训练.tar",
        "-rf",
        "~",
        "a\\b",
        "x.",
    ):
        assert unfit(name) == ""
