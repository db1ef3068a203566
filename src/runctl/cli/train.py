"""`runctl train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from runctl.cli import running
from runctl.cli.data_cache import Size
from runctl.cli.options import Context, user_name, without_format
from runctl.cli.root import FORMATS
from runctl.config import Settings
from runctl.errors import ValidationError

_OF_NEW_MACHINES = {
    "--instance-type": "instance_type",
    "--gpus": "gpus",
    "--spot": "spot",
    "--no-fallback": "no_fallback",
    "--keep": "keep",
}


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("script", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--on", "on", help="local, sandbox, aws or an instance id.  [default: local]")
@click.option("--instance-type", help="Such as g5.xlarge.")
@click.option("--gpus", type=int, help="The cheapest machine with so many GPUs.")
@click.option("--spot/--on-demand", "spot", default=None, help="Buy interruptible capacity.")
@click.option("--no-fallback", is_flag=True, help="Never fall back from spot to on-demand.")
@click.option("--data", help="Local path or s3:// that the script finds in RUNCTL_DATA_DIR.")
@click.option(
    "--data-strategy",
    type=click.Choice(["auto", "direct-s3", "local-cache", "existing-ebs", "prewarmed-ebs"]),
    help="How S3 data is read; direct-s3 gives the script RUNCTL_DATA_LOCATION alone.  [default: auto]",
)
@click.option("--data-volume", metavar="VOLUME", help="A volume of yours that has the data.")
@click.option(
    "--output", "-o", "outputs", multiple=True, help="Where outputs go, or text|json for this command's own."
)
@click.option("--checkpoints", help="The script's checkpoint folder, if it is not RUNCTL_CHECKPOINT_DIR.")
@click.option(
    "--checkpoint-pattern", metavar="GLOB", help="What counts as a checkpoint, if it is not found by itself."
)
@click.option(
    "--keep-written",
    type=Size(),
    help="How much is kept of what the script writes in its own folder on a machine; 0 for none."
    "  [default: 50GiB]",
)
@click.option(
    "--keep-last",
    type=click.IntRange(1),
    metavar="N",
    help="So many checkpoints of each series stay in the bucket, older ones go.  [default: all]",
)
@click.option(
    "--keep-every", type=click.IntRange(1), metavar="M", help="And each whose step is a multiple of M."
)
@click.option(
    "--keep-best", metavar="METRIC", help="And the best by a metric, by its name or the log: val_loss."
)
@click.option("--resume-arg", help="A flag that is given the checkpoint's path on resumed attempts.")
@click.option(
    "--max-attempts",
    type=int,
    help="How often it may fail, or be interrupted before it came further.  [default: 10]",
)
@click.option("--budget", type=str, help="USD after which the job is saved and ended.")
@click.option("--max-hours", type=float, help="Hours after which the job is saved and ended.")
@click.option("--name", help="What to call the job.")
@click.option("--detach", is_flag=True, help="Leave the job alone once it is launched.")
@click.option("--keep", is_flag=True, help="Do not end the machine after the job.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@without_format
def _train(context: Context, **options: Any) -> int:
    """Train a script here, on the sandbox cloud or on AWS, through interruptions to its end.

    SCRIPT is a Python file or any executable; what follows -- goes to it. Without SCRIPT, what follows
    -- is the command.

    \b
    Examples:
      runctl train train.py -- --epochs 50
      runctl train train.py --on aws --spot --gpus 1 --budget 20 -- --epochs 50
      runctl train --on sandbox --instance-type m7i.large -- make train
    """
    settings = context.settings()
    return running.train(context, settings, request(settings, options))


def request(settings: Settings, options: dict[str, Any]) -> running.Request:
    """The options over the settings, as one value."""
    defaults = settings.values.train
    _refuse_unused(options["on"] or defaults.on, options)
    budget = options["budget"]
    places = [place for place in options["outputs"] if place not in FORMATS]
    usual = defaults.output
    if usual and (options["on"] or defaults.on) == "local" and usual.startswith("s3://"):
        usual = None  # it was set for machines
    return running.Request(
        script=options["script"],
        arguments=options["arguments"],
        on=options["on"] or defaults.on,
        instance_type=options["instance_type"] or (None if options["gpus"] else defaults.instance_type),
        gpus=options["gpus"],
        spot=defaults.spot if options["spot"] is None else options["spot"],
        fallback=not options["no_fallback"],
        data=options["data"],
        output=places[-1] if places else usual,
        checkpoints=options["checkpoints"] or defaults.checkpoints,
        resume_arg=options["resume_arg"],
        max_attempts=defaults.max_attempts if options["max_attempts"] is None else options["max_attempts"],
        budget=defaults.budget if budget is None else running.money(budget),
        max_hours=defaults.max_hours if options["max_hours"] is None else options["max_hours"],
        name=options["name"],
        detach=options["detach"],
        keep=options["keep"],
        dry_run=options["dry_run"],
        project=settings.values.project,
        user=user_name(settings),
        cwd=Path.cwd(),
        data_strategy=options.get("data_strategy") or "auto",
        data_volume=options.get("data_volume"),
        checkpoint_pattern=options.get("checkpoint_pattern"),
        keep_written=options.get("keep_written"),
        keep_last=options.get("keep_last"),
        keep_every=options.get("keep_every"),
        keep_best=options.get("keep_best"),
    )


def _refuse_unused(place: str, options: dict[str, Any]) -> None:
    """Flags that say which machine to get, where there is one; settings may say so for other places."""
    if place == "local" and options["keep_written"] is not None:
        raise ValidationError(
            "--keep-written: of no use on this machine",
            why="what a script writes in its folder here stays there",
            next="leave it out, or add --on aws or --on sandbox",
        )
    if place in {"aws", "sandbox"}:
        return
    given = [flag for flag, name in _OF_NEW_MACHINES.items() if options[name]]
    if given:
        here = "this machine" if place == "local" else place
        raise ValidationError(
            f"{', '.join(given)}: of no use on {here}",
            why=f"--on {place} takes {here} as it is, and leaves it running",
            next="leave it out, or add --on aws or --on sandbox",
        )


class _Train(click.Command):
    """Tells `train -- COMMAND` from `train SCRIPT -- ARGUMENTS`, which click alone cannot."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own, _, rest = _split(args)
        rest_given = len(own) < len(args)
        remaining = super().parse_args(ctx, [*own, "--", *rest] if rest_given else own)
        if rest_given and ctx.params.get("script") is not None and ctx.params["script"] not in own:
            ctx.params["arguments"] = tuple(rest)
            ctx.params["script"] = None
        formats = [value for value in ctx.params.get("outputs", ()) if value in FORMATS]
        ctx.params["output_format"] = formats[-1] if formats else None
        return remaining


def _split(args: list[str]) -> tuple[list[str], str, list[str]]:
    if "--" not in args:
        return args, "", []
    at = args.index("--")
    return args[:at], "--", args[at + 1 :]


train = _Train(
    name="train",
    callback=_train.callback,
    params=_train.params,
    help=_train.help,
    context_settings=_train.context_settings,
)
