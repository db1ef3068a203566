"""A machine's disk is as large as the settings say, and never smaller than its image."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from runctl.errors import ConfigError
from runctl.jobs.place import AwsSettings, Place, root_disk
from runctl.providers.aws.provider import AwsProvider
from runctl.providers.aws.session import Session
from runctl.storage.s3 import S3Access, S3Store

UBUNTU = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"


@pytest.fixture
def place(sandbox_cloud: Any) -> Place:
    cloud = sandbox_cloud.cloud()
    session = Session(cloud)
    store = S3Store("unused", "", S3Access())
    return Place(cloud.key, cloud.clock, AwsProvider(session), store, AwsSettings(), session)


def with_settings(place: Place, **settings: Any) -> Place:
    return msgspec.structs.replace(place, settings=AwsSettings(**settings))


def test_a_deep_learning_image_gets_the_disk_that_it_needs(place: Place) -> None:
    disk = root_disk(place, "g5.xlarge")
    assert disk.gib == disk.image.root_gib == 75
    assert disk.image.root_device == "/dev/xvda"
    plain = root_disk(place, "m7i.xlarge")
    assert (plain.gib, plain.image.root_gib) == (30, 8)
    assert disk.price is not None
    assert plain.price is not None
    assert round(disk.price.usd_per_hour / plain.price.usd_per_hour, 9) == Decimal("2.5")


def test_settings_may_ask_for_more(place: Place) -> None:
    assert root_disk(with_settings(place, root_volume_gib=200), "g5.xlarge").gib == 200


def test_a_chosen_image_brings_its_own_root_device_and_size(place: Place, sandbox_cloud: Any) -> None:
    disk = root_disk(with_settings(place, image=sandbox_cloud.image(UBUNTU)), "g5.xlarge")
    assert (disk.image.root_device, disk.gib) == ("/dev/sda1", 65)


def test_an_image_that_is_not_there_is_named(place: Place) -> None:
    with pytest.raises(ConfigError, match="no image ami-0123456789abcdef0") as caught:
        root_disk(with_settings(place, image="ami-0123456789abcdef0"), "g5.xlarge")
    assert caught.value.next == "check aws.image"
