"""Settings: what there is, where each was set, and which of a project's own count."""

from __future__ import annotations

from runctl.config.checking import defaults
from runctl.config.editing import set_value
from runctl.config.reading import Settings, Wish, load, wishes_of
from runctl.config.sources import PROJECT_FILE, ProjectFile, look_at, project_file, sources, user_file
from runctl.config.values import Aws, Protection, Thresholds, Train, Values

__all__ = [
    "PROJECT_FILE",
    "Aws",
    "ProjectFile",
    "Protection",
    "Settings",
    "Thresholds",
    "Train",
    "Values",
    "Wish",
    "defaults",
    "load",
    "look_at",
    "project_file",
    "set_value",
    "sources",
    "user_file",
    "wishes_of",
]
