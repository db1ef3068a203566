"""The Price List, which answers in us-east-1 for every region. Source: its API reference, GetProducts."""

from __future__ import annotations

from collections.abc import Sequence

from runctl.providers.aws.session import Session


def products(session: Session, filters: Sequence[dict[str, str]]) -> list[str]:
    """EC2's products that pass the filters, each as AWS's JSON. Raises CloudError, ConfigError."""
    return list(
        session.pages("pricing", "get_products", "PriceList", ServiceCode="AmazonEC2", Filters=list(filters))
    )
