"""What an account must have before a machine is launched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runctl.errors import ConfigError
from runctl.providers.aws.account import require_profile
from runctl.providers.aws.session import Session


@pytest.mark.parametrize("operation", ["iam/SimulatePrincipalPolicy", "ssm/GetServiceSetting"])
def test_a_role_needs_rights_for_ssm_and_who_may_not_look_is_believed(
    sandbox_cloud: Any, operation: str
) -> None:
    iam, name = sandbox_cloud.client("iam"), sandbox_cloud.name("bare")
    session = Session(sandbox_cloud.cloud())
    iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    with pytest.raises(ConfigError, match="no role for SSM") as refused:
        require_profile(session, name)
    assert f"{name} may not call ssm:UpdateInstanceInformation" in refused.value.why

    service, _, call = operation.partition("/")
    fault = {"operation": call, "code": "AccessDenied", "status": 403}
    sandbox_cloud.control.add_fault(service, "error", **fault)
    try:
        require_profile(session, name)
    finally:
        sandbox_cloud.control.clear_faults()

    allowed = [{"Effect": "Allow", "Action": "ssm:*", "Resource": "*"}]
    policy = json.dumps({"Version": "2012-10-17", "Statement": allowed})
    iam.put_role_policy(RoleName=name, PolicyName="ssm", PolicyDocument=policy)
    require_profile(session, name)
