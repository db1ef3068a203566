"""A plan says that a job may keep nothing, where its script's own text tells of no folder that is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from runctl.jobs import plan
from runctl.jobs.spec import JobSpec

SAYS = "it may keep nothing"


@pytest.mark.parametrize(
    ("text", "more", "is_said"),
    [
        ("open('/tmp/model.pt', 'w')", {}, True),
        ("open('model.pt', 'w')", {"keep_written": 5}, False),
        ("open('model.pt', 'w')", {"checkpoints": "saved"}, False),
        ("os.environ['RUNCTL_CHECKPOINT_DIR']", {}, False),
        ("save(to=os.environ['RUNCTL_OUTPUT_DIR'])", {}, False),
        ("x" * (1024 * 1024 + 1), {}, False),
        (None, {}, False),
    ],
)
def test_it_is_said_where_nothing_tells_otherwise(
    tmp_path: Path, text: str | None, more: dict[str, object], is_said: bool
) -> None:
    if text is not None:
        (tmp_path / "train.py").write_text(text)
    asked = {"keep_written": 0, "max_hours": 1.0, **more}
    spec = JobSpec(
        name="t", on="aws", root=str(tmp_path), workdir=".", command=("python3", "train.py"), **asked
    )
    assert any(SAYS in one for one in plan._unbounded(spec)) == is_said
