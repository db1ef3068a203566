"""Measurements of runctl beside what it is measured against."""
