"""`runctl data plan`: what each way of loading a dataset takes and costs."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import click

from runctl.cli.options import Context, common, on_cloud
from runctl.errors import CloudError, ValidationError

if TYPE_CHECKING:
    from runctl.datasets.situation import Situation
    from runctl.model import Price
    from runctl.providers.aws.session import Session
    from runctl.resources.prefixes import Dataset


class Number(click.ParamType[Decimal]):
    """An exact number that is not below 0."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            found = Decimal(str(value))
        except InvalidOperation:
            self.fail(f"{value!r} is no number", param, ctx)
        if not found.is_finite() or found < 0:
            self.fail(f"{value!r} is no number from 0 on", param, ctx)
        return found


@click.command()
@click.argument("s3_uri", required=False)
@click.option("--machine", metavar="TYPE", help="What trains, such as g5.xlarge.")
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True, help="Trainings.")
@click.option("--epochs", type=click.IntRange(1), default=1, show_default=True, help="Epochs of each.")
@click.option("--spot", is_flag=True, help="The machine is bought as spot.")
@click.option(
    "--keep-days",
    type=Number(),
    default="1",
    show_default=True,
    help="Days that a volume waits between runs.",
)
@click.option(
    "--gpu-needs", type=Number(), metavar="MB/S", help="What training reads when it never waits, if known."
)
@click.option("--volume", metavar="VOLUME", help="One of yours that has the data.")
@click.option("--files", type=click.IntRange(0), help="So many files, without listing.")
@click.option("--size", type=Number(), metavar="GIB", help="So large, without listing.")
@click.option("--explain", is_flag=True, help="Show the arithmetic of every figure.")
@on_cloud
@common
def plan(context: Context, *, on: str | None, s3_uri: str | None, explain: bool, **options: Any) -> int:
    """Compare what streaming, caching and pre-warmed volumes take and cost, and say which is best.

    The dataset is listed; --files and --size plan for one that is not there yet.

    \b
    Examples:
      runctl data plan s3://bucket/imagenet --runs 5 --epochs 3 --machine g5.xlarge
      runctl data plan --files 1281167 --size 138 --runs 5 --epochs 90 --machine g5.xlarge --explain
    """
    from runctl.datasets import strategy
    from runctl.render import loading, output

    asked = (options["files"], options["size"])
    if (s3_uri is None) == (None in asked) or (s3_uri is not None and asked != (None, None)):
        raise ValidationError(
            "Which dataset?",
            why="give its place in S3, or both --files and --size",
            next="s3://bucket/prefix",
        )
    situation = _listed(context, on, s3_uri, options) if s3_uri else _imagined(context, options)
    choice = strategy.choose(situation)
    if context.json:
        output.write_json({"location": s3_uri, "situation": situation, "choice": choice})
    elif context.quiet:
        output.write_line(choice.strategy)
    else:
        loading.show_choice(s3_uri, situation, choice, explain=explain)
    return 0


def _listed(context: Context, on: str | None, s3_uri: str, options: dict[str, Any]) -> Situation:
    from runctl.datasets import volumes
    from runctl.resources import prefixes

    prefixes.place_of(s3_uri)
    session = context.session(context.settings(), on)
    dataset = prefixes.dataset_of(session, s3_uri)
    machine = _machine(context, options)
    price = _price(session, machine, spot=options["spot"])
    given: dict[str, Any] = {
        "bytes": dataset.bytes,
        "files": dataset.files,
        "region": session.region,
        "price": price,
    }
    given["bucket_region"] = dataset.region
    if options["volume"]:
        given["volume"] = volumes.named(session, options["volume"], dataset)
    return _situation(options, machine, {**given, "warm": _warm(context, session, dataset)})


def _price(session: Session, machine: str, *, spot: bool) -> Price | None:
    """What AWS tells, where it does; None leaves it to the catalog."""
    from runctl.resources import offers, prices

    if not spot:
        prices.learn(session, {machine})
        return prices.on_demand(session, machine)
    try:
        found = offers.spot_prices(session, session.cloud.clock, machine)
    except CloudError:  # its cost is then unknown, and says so
        return None
    return min(found.values(), key=lambda price: price.usd_per_hour, default=None)


def _warm(context: Context, session: Session, dataset: Dataset) -> Any:
    """A pre-warmed volume of this version; credentials for S3 alone cannot look for one."""
    from runctl.datasets import volumes
    from runctl.events import Notice

    try:
        found = volumes.holding(session, dataset)
    except CloudError as error:
        context.emit()(Notice(text=f"not looked for pre-warmed volumes: {error}", warning=True))
        return None
    return volumes.as_own(found[0]) if found else None


def _imagined(context: Context, options: dict[str, Any]) -> Situation:
    from runctl.pricing import catalog

    if options["volume"]:
        raise ValidationError("--volume needs a dataset that can be listed", next="s3://bucket/prefix")
    region = context.settings().under_flags({"aws.region": context.region}).values.aws.region
    given = {"bytes": int(options["size"] * 2**30), "files": options["files"], "price": None}
    machine = _machine(context, options)
    return _situation(options, machine, {**given, "region": region or catalog.REGION})


def _machine(context: Context, options: dict[str, Any]) -> str:
    found = options["machine"] or context.settings().values.train.instance_type
    if not found:
        raise ValidationError("Which machine trains?", next="--machine g5.xlarge")
    return found


def _situation(options: dict[str, Any], machine: str, given: dict[str, Any]) -> Situation:
    from runctl.datasets.situation import Situation, machine_of

    price = given.pop("price")
    return Situation(
        epochs=options["epochs"],
        runs=options["runs"],
        keep_days=options["keep_days"],
        needs=options["gpu_needs"],
        machine=machine_of(machine, given["region"], spot=options["spot"], price=price),
        **given,
    )
