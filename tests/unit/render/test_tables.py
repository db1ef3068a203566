"""Tables for terminals of any width."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.render.tables import cell_width, laid_out

REPORT = (
    ["attempt", "machine", "end", "time", "from step", "to step", "notice to safety", "steps lost", "cost"],
    [["1", "g5.xlarge spot us-east-1b", "notice", "21 s", "", "92", "6.0 s", "0", "$0.0006"],
     ["2", "g5.xlarge spot us-east-1c", "finished", "2 min", "92", "240", "", "", "$0.0137"]],
    ["attempt", "from step", "to step", "steps lost", "cost"],
)  # fmt: skip


def drawn(columns: list[str], rows: list[list[str]], right: list[str], width: int | None) -> list[str]:
    return [line for part in laid_out(columns, rows, right, width) for line in part]


def test_a_table_in_a_pipe_is_as_wide_as_it_needs_to_be() -> None:
    head, rule, first, second = drawn(*REPORT, None)
    assert head.startswith("attempt   machine                     end        time    from step   to step")
    assert len(rule) == max(map(len, (head, first, second)))


def test_long_cells_and_heads_are_folded_between_words() -> None:
    lines = drawn(*REPORT, 80)
    assert [line.split() for line in lines[3:7]] == [
        ["─" * 80],
        ["1", "g5.xlarge", "spot", "notice", "21", "s", "92", "6.0", "s", "0", "$0.0006"],
        ["us-east-1b"],
        ["2", "g5.xlarge", "spot", "finished", "2", "min", "92", "240", "$0.0137"],
    ]


def test_what_does_not_fit_stands_below_its_row_behind_its_name() -> None:
    ids = [["i-0123456789abcdef0", "vol-0123456789abcdef0", "snap-0123456789abcdef0", "42 GiB"]]
    assert drawn(["machine", "disk", "snapshot", "size"], ids, ["size"], 50) == [
        "machine              disk",
        "──────────────────────────────────────────",
        "i-0123456789abcdef0  vol-0123456789abcdef0",
        "    snapshot snap-0123456789abcdef0   size 42 GiB",
    ]


def test_a_column_without_a_value_takes_no_room_in_a_narrow_one() -> None:
    lines = drawn(["a", "nothing in here", "b"], [["x" * 20, "", "y" * 20]], [], 45)
    assert lines[0] == "a                     b"


words = st.text(st.sampled_from("abc-19.éx漢"), min_size=1, max_size=22)
cells = st.lists(words, max_size=5).map(" ".join)


@settings(max_examples=200)
@given(st.data(), st.integers(1, 7), st.integers(0, 4), st.integers(20, 120))
def test_no_word_is_broken_lost_or_wider_than_the_terminal(
    data: st.DataObject, many: int, count: int, width: int
) -> None:
    columns = data.draw(st.lists(words, min_size=many, max_size=many))
    rows = data.draw(st.lists(st.lists(cells, min_size=many, max_size=many), min_size=count, max_size=count))
    lines = drawn(columns, rows, columns[:1], width)
    said = " ".join(lines).split()
    for row in rows:
        for word in (word for cell in row for word in cell.split(" ") if word):
            assert word in said
            said.remove(word)
    longest = max(cell_width(word) for row in (columns, *rows) for cell in row for word in cell.split(" "))
    assert max(map(cell_width, lines)) <= max(width, longest + 4)
