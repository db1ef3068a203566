# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalCall=false
"""The machine images of the sandbox, and AWS's public parameters that lead to them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ssm.models import Parameter, ssm_backends

from runctl.sandbox.overlay import now, replaces
from runctl.sandbox.state import ACCOUNT

ROOT_DEVICE = "/dev/xvda"
_AMAZON = "137112412989"
_ARCHITECTURES = ("x86_64", "arm64")
_PLAIN = "/aws/service/ami-amazon-linux-latest/{name}-{arch}"
_PLAIN_NAMES = ("al2023-ami-kernel-default", "al2023-ami-kernel-6.1", "al2023-ami-minimal-kernel-default")
_PLAIN_GIB = 8
_DEEP_LEARNING = "/aws/service/deeplearning/ami/{arch}/{name}/latest/ami-id"
_DEEP_LEARNING_GIB = {
    # More than a default of 30 GiB: who asks for less than an image's own size is refused.
    "base-oss-nvidia-driver-gpu-amazon-linux-2023": 75,
    "base-oss-nvidia-driver-gpu-ubuntu-22.04": 65,
    "oss-nvidia-driver-gpu-pytorch-2.7-amazon-linux-2023": 75,
}


@replaces(Ami, "__init__")
def _born(original: Any, self: Any, backend: Any, *args: Any, **options: Any) -> None:
    """moto makes every image's snapshot in us-east-1a."""
    options.setdefault("region_name", f"{backend.region_name}a")
    original(self, backend, *args, **options)


def _root_gib(image: Any) -> int:
    return getattr(image, "sandbox_gib", _PLAIN_GIB)


Ami.block_device_mappings = property(
    lambda self: [
        {
            "DeviceName": self.root_device_name,
            "Ebs": {
                "SnapshotId": self.ebs_snapshot.id,
                "VolumeSize": _root_gib(self),
                "VolumeType": "gp3",
                "DeleteOnTermination": True,
                "Encrypted": False,
            },
        }
    ]
)


def root_gib(backend: Any, image_id: str) -> int:
    """The least size of a root disk made from an image."""
    image = backend.amis.get(image_id)
    return _root_gib(image) if image is not None else _PLAIN_GIB


def seed(region: str) -> None:
    """Images under AWS's public parameters that exist to be launched."""
    backend, ssm = ec2_backends[ACCOUNT][region], ssm_backends[ACCOUNT][region]
    wanted = [
        (_PLAIN.format(arch=arch, name=name), arch, _PLAIN_GIB)
        for arch in _ARCHITECTURES
        for name in _PLAIN_NAMES
    ]
    wanted += [
        (_DEEP_LEARNING.format(arch=arch, name=name), arch, gib)
        for arch in _ARCHITECTURES
        for name, gib in _DEEP_LEARNING_GIB.items()
    ]
    for number, (parameter, architecture, size) in enumerate(wanted):
        image_id = f"ami-{0x5A9D000000000000 + number:017x}"
        image = Ami(
            backend,
            image_id,
            name=parameter.removeprefix("/aws/service/").replace("/", "-"),
            description="An image of the sandbox cloud: the software of this host",
            owner_id=_AMAZON,
            owner_alias="amazon",
            public=True,
            virtualization_type="hvm",
            architecture=architecture,
            hypervisor="xen",
            root_device_type="ebs",
            root_device_name="/dev/sda1" if "ubuntu" in parameter else ROOT_DEVICE,
            creation_date=datetime(2026, 11, 1),  # noqa: DTZ001 (moto keeps times without zones)
        )
        image.sandbox_gib = size
        backend.amis[image_id] = image
        _put_public(ssm, parameter, image_id)


def _put_public(ssm: Any, name: str, value: str) -> None:
    """moto refuses PutParameter under /aws: the record is made as its own loader makes it."""
    parameters = ssm._parameters  # noqa: SLF001
    # Touching the name first lets moto load its own, older values, which have no image here.
    parameters[name].clear()
    parameters[name].append(
        Parameter(
            account_id=ACCOUNT,
            name=name,
            value=value,
            parameter_type="String",
            description=None,
            allowed_pattern=None,
            keyid=None,
            last_modified_date=now(),
            version=1,
            data_type="aws:ec2:image",
        )
    )
