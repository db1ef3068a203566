"""`runctl sandbox env`: the sandbox for other tools."""

from __future__ import annotations

import shlex

import click

from runctl.cli.options import Context, common
from runctl.render import output

_OF_OTHERS = ("AWS_SESSION_TOKEN", "AWS_PROFILE")
"""What the user's own account may have left in the environment, and would be sent to the sandbox."""


@click.command()
@common
def env(context: Context) -> None:
    """Print what other tools need to talk to the sandbox: endpoint, region and keys.

    The keys open this sandbox and nothing else. They are new for each sandbox: ask again after `up`.

    \b
    Examples:
      eval "$(runctl sandbox env)" && aws s3 ls
      runctl sandbox env --output json
    """
    from runctl.clouds import read_sandbox_record

    record = read_sandbox_record()
    found = {
        "AWS_ENDPOINT_URL": record.endpoint,
        "AWS_ENDPOINT_URL_S3": record.s3_endpoint,
        "S3_ENDPOINT_URL": record.s3_endpoint,  # s5cmd looks here
        "AWS_REGION": record.region,
        "AWS_DEFAULT_REGION": record.region,
        "AWS_ACCESS_KEY_ID": record.access_key,
        "AWS_SECRET_ACCESS_KEY": record.secret_key,
    }
    if context.json:
        output.write_json(found)
        return
    for name, value in found.items():
        output.write_line(f"export {name}={shlex.quote(value)}")
    output.write_line(f"unset {' '.join(_OF_OTHERS)}")
    if (record.s3_access_key, record.s3_secret_key) != (record.access_key, record.secret_key):
        output.talk("its S3 is another server, which wants the keys that it was started with")
