"""The sandbox's prices: on-demand and disks from the bundled figures, spot as a seeded walk, hour by hour."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

from runctl.data import instance_type_rows, volume_price_rows

STEP_SECONDS = 3600
HISTORY_STEPS = 24 * 90
"""AWS keeps 90 days of spot prices."""
_SPREAD = 0.15
_UNKNOWN_TYPE = Decimal("0.10")
_USUAL_DISCOUNT = Decimal("0.4")


@dataclass
class PriceBook:
    """Prices at any moment of the cloud's time; the same seed gives the same prices."""

    seed: int
    since: float

    @cached_property
    def _rows(self) -> dict[str, dict[str, str]]:
        return {row["instance_type"]: row for row in instance_type_rows()}

    def on_demand(self, instance_type: str) -> Decimal:
        row = self._rows.get(instance_type)
        text = row["on_demand_usd_hr_us_east_1"] if row else ""
        return Decimal(text) if text else _UNKNOWN_TYPE

    def known_types(self) -> list[str]:
        return [name for name, row in self._rows.items() if row["on_demand_usd_hr_us_east_1"]]

    def spot(self, instance_type: str, zone: str, at: float) -> Decimal:
        """The spot price in force at a moment."""
        return self._spot_step(instance_type, zone, int(at // STEP_SECONDS))

    def changes(self, instance_type: str, zone: str, start: float, end: float) -> list[tuple[float, Decimal]]:
        """Price changes within a stretch, and the last one before it: (since when, USD/h)."""
        first = int(start // STEP_SECONDS)
        last = min(int(end // STEP_SECONDS), first + HISTORY_STEPS)
        return [
            (float(step * STEP_SECONDS), self._spot_step(instance_type, zone, step))
            for step in range(first, last + 1)
        ]

    def gib_month(self, kind: str) -> Decimal | None:
        """USD of a GiB of a volume type, or of `snapshot`, for a month in us-east-1."""
        row = next(row for row in volume_price_rows() if row["region"] == "us-east-1")
        text = row.get(f"{kind}_gib_mo")
        return Decimal(text) if text else None

    def volume_rate(self, volume_type: str, size_gib: int, iops: int, throughput: int) -> Decimal:
        """USD a month of a disk in us-east-1."""
        row = next(row for row in volume_price_rows() if row["region"] == "us-east-1")
        month = Decimal(row.get(f"{volume_type}_gib_mo") or row["gp2_gib_mo"]) * size_gib
        if volume_type == "gp3":
            month += Decimal(row["gp3_iops_mo"]) * max(0, iops - 3000)
            month += Decimal(row["gp3_mibps_mo"]) * max(0, throughput - 125)
        elif volume_type in {"io1", "io2"}:
            tiers = [(32_000, "tier1"), (64_000, "tier2"), (256_000, "tier3")]
            below = 0
            for limit, tier in tiers:
                column = f"io2_iops_mo_{tier}" if volume_type == "io2" else "io1_iops_mo"
                month += Decimal(row[column]) * max(0, min(iops, limit) - below)
                below = limit
        return month

    def _spot_step(self, instance_type: str, zone: str, step: int) -> Decimal:
        row = self._rows.get(instance_type)
        on_demand = self.on_demand(instance_type)
        estimate = row["spot_usd_hr_us_east_1"] if row else ""
        usual = Decimal(estimate) if estimate else on_demand * _USUAL_DISCOUNT
        chance = random.Random(f"{self.seed}/{instance_type}/{zone}/{step}")  # noqa: S311 (a seeded simulation)
        price = usual * Decimal(str(1 + _SPREAD * chance.uniform(-1, 1)))
        return min(price, on_demand).quantize(Decimal("0.0001"))
