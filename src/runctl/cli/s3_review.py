"""`runctl s3 review`: what lies under a prefix, what it costs, and what could go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from runctl.cli import acting, moving
from runctl.cli.options import Context, common, on_cloud
from runctl.cli.s3_cleanup import now_of
from runctl.errors import CloudError, ConfigError, NotFound, ValidationError
from runctl.quoting import quoted

if TYPE_CHECKING:
    from runctl.safety.checkpoints import CheckpointCleanup
    from runctl.storage.bulk import BulkStore, OpenUpload
    from runctl.storage.entries import Entry


@click.command()
@click.argument("prefix", metavar="s3://BUCKET/PREFIX")
@click.option(
    "--keep-last",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    metavar="N",
    help="Checkpoints of each series that would stay.",
)
@moving.endpoint_option
@on_cloud
@common
def review(context: Context, prefix: str, keep_last: int, endpoint_url: str | None, on: str | None) -> None:
    """What lies under a prefix by kind and age, what it costs a month, and what could go.

    Old checkpoints could go, by the rules of s3 cleanup, and uploads in parts that nobody completed: S3 bills
    their parts, and no listing shows them. Nothing is touched; the commands that delete are shown.

    \b
    Examples:
      runctl s3 review s3://my-bucket
      runctl s3 review s3://my-bucket/runs --output json
    """
    from runctl.pricing import catalog
    from runctl.render import output
    from runctl.render import s3_review as shown
    from runctl.storage.review import review as look

    reach = moving.access(context, on, endpoint_url)
    store = moving.store(moving.prefix(prefix), reach)
    price = catalog.standard_storage(reach.region or "us-east-1")
    found = list(store.entries_with_class())
    groups = look(found, now_of(context, on), price)
    old = _old(context, store, [entry for entry, _ in found], keep_last, on)
    uploads, unknown = _open_uploads(store)
    command = f"runctl s3 cleanup {quoted(prefix)} --keep-last {keep_last}"
    known = price if all(set(group.by_class) == {"STANDARD"} for group in groups) else None
    could_go = shown.CouldGo(old=old, command=command, uploads=uploads, unknown=unknown, price=known)
    if context.json:
        body = shown.could_go_body(could_go)
        output.write_json({"groups": groups, "usd_per_gb_month": price, "could_go": body})
    else:
        shown.show_review(groups)
        shown.show_could_go(could_go, now_of(context, on))


def _old(
    context: Context, store: BulkStore, entries: list[Entry], keep: int, on: str | None
) -> CheckpointCleanup | None:
    from runctl.resources.old_checkpoints import Cleaner
    from runctl.safety.checkpoints import Keep

    with context.ledger() as ledger:
        cleaner = Cleaner(
            store=store,
            ledger=ledger,
            keep=Keep(keep),
            request=acting.asked(context, force=False, unmanaged=False),
            policy=acting.policy(context),
            now=lambda: now_of(context, on),
        )
        try:
            return cleaner.plan(entries)
        except (NotFound, ValidationError):  # there is none, or but a part of a job
            return None


def _open_uploads(store: BulkStore) -> tuple[list[OpenUpload], str]:
    """Those that are open, and why it is not known, where S3 does not tell."""
    try:
        return list(store.open_uploads()), ""
    except (CloudError, ConfigError, NotFound) as error:
        return [], error.why or error.what
