"""A command that is shown to be copied does what it says, whatever is in the words of others."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runctl
from runctl.quoting import quoted
from runctl.render.harmless import is_harmless

SOURCE = Path(runctl.__file__).parent
COMMAND = re.compile(r"\b(?:runctl|aws|chmod|git|rm|mv|kill|ssh|pip) [^,;()]*$")
NO_WORDS_OF_OTHERS = {
    # Numbers and words that the source itself chooses.
    "keep_last", "other['speed']", "limit.option", "limit.option if limit else ''", "case.action", "needed",
    "'rollback' if being_undone else 'resume'", "speed.iops", "speed.throughput_mibs", "here", "pids",
    "__version__", "FORMAT", "crc_of(body)", "len(MIGRATIONS)", "doubt if seems_ours else ''",
    # A tag's value, a comment of a call, a sentence: no command.
    "self._job.id", "number", "target.subject", "request.user", "spec['role']", "what", "target.zone",
    "' '.join(map(quoted, files))", "shlex.quote(str(folder))", "accept",
}  # fmt: skip


def words_in_commands(tree: ast.AST) -> Iterator[str]:
    """What is set unquoted into a text behind the beginning of a command."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        before = ""
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                if COMMAND.search(before) and not ast.unparse(part.value).startswith("quoted("):
                    yield ast.unparse(part.value)
                before += "X"
            elif isinstance(part, ast.Constant):
                before += str(part.value)


def test_every_word_of_others_in_a_command_is_quoted() -> None:
    found = {
        f"{module.relative_to(SOURCE)}: {word}"
        for module in sorted(SOURCE.rglob("*.py"))
        if module.relative_to(SOURCE).parts[0] not in {"agent", "sandbox"}
        for word in words_in_commands(ast.parse(module.read_text(encoding="utf-8")))
        if word not in NO_WORDS_OF_OTHERS
    }
    assert not found


def test_the_walk_sees_a_word_that_is_not_quoted() -> None:
    assert list(words_in_commands(ast.parse('f"try: runctl jobs show {job.id}"'))) == ["job.id"]
    assert not list(words_in_commands(ast.parse('f"job {job.id}: runctl jobs show {quoted(job.id)}"')))


any_word = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@pytest.mark.skipif(not shutil.which("bash"), reason="a real shell reads the words")
@settings(max_examples=20)
@given(st.lists(any_word, min_size=1, max_size=15))
def test_a_shell_reads_each_word_back_as_it_was(words: list[str]) -> None:
    line = " ".join(map(quoted, words))
    assert line.isprintable()
    script = f"export LC_ALL=C.UTF-8\nprintf '%s\\0' {line}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


def test_plain_words_stay_plain_and_others_are_one_word() -> None:
    assert quoted("train-7f05a3") == "train-7f05a3"
    assert quoted("s3://bucket/a;rm -rf ~") == "'s3://bucket/a;rm -rf ~'"
    assert quoted("a\x1b]0;t\x07'b\u202e") == r"$'a\x1b]0;t\x07\'b\u202e'"
    assert is_harmless(quoted("$(x)\n`y`\x9b"))
