"""The page of frameworks and what `make test-frameworks` takes from it."""

from __future__ import annotations

from page import frameworks


def test_every_framework_has_a_script_that_compiles_and_a_pinned_version() -> None:
    found = frameworks()
    assert len(found) == 12
    for framework in found:
        compile(framework.script, framework.name, "exec")
        assert "RUNCTL_" not in framework.script  # the working folder suffices
        assert framework.every > 0
