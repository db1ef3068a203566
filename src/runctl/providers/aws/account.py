"""What an account must have before a job can run there: the job bucket and the machines' role."""

from __future__ import annotations

from typing import Any

from runctl.errors import CloudError, ConfigError, NotFound
from runctl.events import Notice
from runctl.providers.aws.session import Session
from runctl.quoting import quoted

_SSM_NEEDS = "ssm:UpdateInstanceInformation"
"""Without this a machine never shows itself to SSM; AmazonSSMManagedInstanceCore has it."""
_DEFAULT_ROLE = "/ssm/managed-instance/default-ec2-instance-management-role"
_NONE = "$None"
_NAMESPACE_MARK = "-an"


_WITHOUT_NAMESPACE = frozenset({"me-south-1", "me-central-1"})
"""Regions without account-regional bucket names (Amazon S3 User Guide, "Namespaces", November 2026)."""


def default_bucket(session: Session) -> str:
    """The bucket that jobs use when none is configured: one an account and region.

    On AWS its name is of the account's own namespace, which nobody else can take. Other servers do not all
    know these.
    """
    name = f"runctl-{session.account()}-{session.region}"
    if session.s3_endpoint is None and session.region not in _WITHOUT_NAMESPACE:
        return name + _NAMESPACE_MARK
    return name


def job_bucket(session: Session, bucket: str) -> dict[str, Any]:
    """The parameters of every call about the job bucket: S3 refuses it where it is somebody else's."""
    return {"Bucket": bucket, "ExpectedBucketOwner": session.account()}


def bucket_exists(session: Session, bucket: str) -> bool:
    """Raises ConfigError where the bucket is somebody else's, however open, and where it is elsewhere."""
    try:
        answer = session.call("s3", "head_bucket", **job_bucket(session, bucket))
    except NotFound:
        return False
    except CloudError as error:
        if error.code in {"403", "301"}:
            raise _not_ours(session, bucket) from error
        raise
    # The SDK follows S3 to another region; machines, which sign for their own, do not.
    region = answer.get("BucketRegion")
    if region and region != session.region and session.s3_endpoint in {None, session.cloud.endpoint}:
        raise ConfigError(
            f"The bucket {bucket} is in {region}, and machines would be in {session.region}",
            why="a job and its bucket are in one region",
            next=f"--region {quoted(region)}, or: runctl config set aws.bucket NAME",
        )
    return True


def _not_ours(session: Session, bucket: str) -> ConfigError:
    return ConfigError(
        f"The bucket {bucket} cannot be used",
        why=f"it does not belong to account {session.account()}, is in another region, or refuses you",
        next="runctl config set aws.bucket NAME",
    )


def ensure_bucket(session: Session, bucket: str) -> bool:
    """Create the job bucket where it is missing: closed to the public, cleaning up what was left.

    Answers whether it was created.
    """
    if bucket_exists(session, bucket):
        return False
    parameters: dict[str, Any] = {"Bucket": bucket}
    if bucket.endswith(f"-{session.account()}-{session.region}{_NAMESPACE_MARK}"):
        parameters["BucketNamespace"] = "account-regional"
    if session.region != "us-east-1":
        parameters["CreateBucketConfiguration"] = {"LocationConstraint": session.region}
    try:
        session.call("s3", "create_bucket", **parameters)
    except CloudError as error:
        if error.code == "BucketAlreadyExists":
            raise _not_ours(session, bucket) from error
        if error.code != "BucketAlreadyOwnedByYou":
            raise
    _settle(
        session,
        "put_public_access_block",
        **job_bucket(session, bucket),
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        },
    )
    _settle(
        session,
        "put_bucket_lifecycle_configuration",
        **job_bucket(session, bucket),
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": "abort-torn-uploads",
                    "Status": "Enabled",
                    "Filter": {"Prefix": ""},
                    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3},
                },
                {
                    # A transfer empties its own prefix; this is for one whose computer never came back.
                    "ID": "expire-staged-files",
                    "Status": "Enabled",
                    "Filter": {"Prefix": "runctl/staging/"},
                    "Expiration": {"Days": 7},
                },
            ]
        },
    )
    return True


def _settle(session: Session, operation: str, **arguments: Any) -> None:
    """One setting of a new bucket. AWS knows them all; another server that knows it not is told of."""
    try:
        session.call("s3", operation, **arguments)
    except CloudError as error:
        if error.code != "NotImplemented" or session.s3_endpoint is None:
            raise
        session.emit(Notice(text=f"{session.s3_endpoint} does not know {operation}", warning=True))


def require_profile(session: Session, profile: str) -> None:
    """The machines' role must be there, with rights for SSM, before anything is launched.

    Raises ConfigError else; whoever may not look at rights is believed.
    """
    try:
        answer = session.call("iam", "get_instance_profile", InstanceProfileName=profile)
    except NotFound as error:
        raise _no_role(profile, "the account has no instance profile of this name") from error
    roles = answer["InstanceProfile"]["Roles"]
    if not roles:
        raise _no_role(profile, "the instance profile holds no role")
    if _lacks(session, roles[0]["Arn"], _SSM_NEEDS) and not _has_default_role(session):
        raise _no_role(profile, f"its role {roles[0]['RoleName']} may not call {_SSM_NEEDS}")


def _lacks(session: Session, role: str, action: str) -> bool:
    """Whether it is certain that a role's own policies do not allow an action."""
    try:
        answer = session.call("iam", "simulate_principal_policy", PolicySourceArn=role, ActionNames=[action])
    except (CloudError, NotFound):
        return False
    return any(row["EvalDecision"] != "allowed" for row in answer["EvaluationResults"])


def _has_default_role(session: Session) -> bool:
    """Whether SSM manages every instance of the account by a role of its own; unknown counts as yes."""
    try:
        answer = session.call("ssm", "get_service_setting", SettingId=_DEFAULT_ROLE)
    except (CloudError, NotFound):
        return True
    return answer["ServiceSetting"].get("SettingValue", _NONE) != _NONE


def _no_role(profile: str, why: str) -> ConfigError:
    return ConfigError(
        f"Machines have no role for SSM and S3: {profile}",
        why=why,
        next="see docs/aws-setup.md, or: runctl config set aws.instance_profile NAME",
    )
