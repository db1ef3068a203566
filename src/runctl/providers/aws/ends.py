"""Why EC2 says that an instance ended: the codes of a StateReason, and what each means for who bought it.

The codes and their meanings are those of EC2's API reference, data type StateReason.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class By(StrEnum):
    """Who ended an instance. `LAUNCH` is nobody: it could not be started as it was asked for."""

    CLOUD = "cloud"
    SELF = "self"
    USER = "user"
    LAUNCH = "launch"


class End(msgspec.Struct, frozen=True):
    """The cause behind a code, and what helps against one that will come again."""

    by: By
    meaning: str
    next: str = ""


ENDS = {
    "Server.InsufficientInstanceCapacity": End(By.CLOUD, "there was no capacity for its launch"),
    "Server.InternalError": End(By.CLOUD, "an error of AWS's own ended it during its launch"),
    "Server.ScheduledStop": End(By.CLOUD, "AWS retired the hardware under it, as scheduled"),
    "Server.SpotInstanceShutdown": End(By.CLOUD, "spot capacity was taken back"),
    "Server.SpotInstanceTermination": End(By.CLOUD, "spot capacity was taken back"),
    "Client.InstanceInitiatedShutdown": End(By.SELF, "it shut itself down"),
    "Client.InstanceTerminated": End(By.USER, "it was ended while an image was made of it"),
    "Client.UserInitiatedHibernate": End(By.USER, "somebody hibernated it"),
    "Client.UserInitiatedShutdown": End(By.USER, "somebody stopped or terminated it"),
    "Client.InternalError": End(
        By.LAUNCH,
        "it could not be started: most often, whoever launches it may not use the KMS key of its disk",
        "grant it kms:CreateGrant, Decrypt, GenerateDataKeyWithoutPlaintext and ReEncrypt* on that key",
    ),
    "Client.InvalidSnapshot.NotFound": End(
        By.LAUNCH,
        "a snapshot of its disks is not there",
        "another image: runctl config set aws.image ami-...",
    ),
    "Client.VolumeLimitExceeded": End(
        By.LAUNCH,
        "the account's disks reached their quota",
        "delete what is not used (runctl resources cleanup), or ask for more storage of gp3 (L-7A658B76)",
    ),
}


def of(code: str) -> End:
    """What a code means; one that is not listed is AWS's if it says so."""
    known = ENDS.get(code)
    if known is not None:
        return known
    return End(By.CLOUD if code.startswith("Server.") else By.USER, "")
