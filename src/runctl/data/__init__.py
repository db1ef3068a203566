"""Bundled, dated figures: instance types and prices, as text rows for whoever parses them."""

from __future__ import annotations


def instance_type_rows() -> list[dict[str, str]]:
    """One row a type; `as_of` dates the on-demand price (USD/h) and the estimate of the spot price.

    EBS and network throughput are what a type sustains (Gbit/s); `local_nvme_gb` is its instance store in GB,
    empty where it is not known.
    """
    return _rows("instance_types.csv")


def instance_price_rows() -> list[dict[str, str]]:
    """One row a type and region, us-east-1 aside: USD/h on demand and the estimate on spot, each dated.

    Sources: public mirrors of AWS's price pages and of the Spot Advisor's feed, on the days named there.
    """
    return _rows("instance_prices.csv")


def volume_price_rows() -> list[dict[str, str]]:
    """One row a region: USD per GiB-month, per IOPS-month and per MiB/s-month by volume type."""
    return _rows("ebs_prices.csv")


def storage_price_rows() -> list[dict[str, str]]:
    """One row a region: USD per 1,000 requests to S3 Standard (LIST and PUT; GET), and per GB-month."""
    return _rows("s3_prices.csv")


def _rows(name: str) -> list[dict[str, str]]:
    import csv
    from importlib import resources

    text = resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
