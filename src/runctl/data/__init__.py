"""Bundled, dated figures: instance types and prices of us-east-1, as text rows for whoever parses them."""

from __future__ import annotations


def instance_type_rows() -> list[dict[str, str]]:
    """One row a type; `as_of` dates the on-demand price (USD/h) and the estimate of the spot price."""
    return _rows("instance_types.csv")


def volume_price_rows() -> list[dict[str, str]]:
    """One row a region: USD per GiB-month, per IOPS-month and per MiB/s-month by volume type."""
    return _rows("ebs_prices.csv")


def _rows(name: str) -> list[dict[str, str]]:
    import csv
    from importlib import resources

    text = resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
