"""What every command takes: output, configuration, cloud; and what it is handed for it."""

from __future__ import annotations

import functools
import getpass
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
import msgspec

from runctl.cli.root import FORMATS
from runctl.config import Settings, load
from runctl.quoting import quoted

if TYPE_CHECKING:
    from runctl.clouds import Cloud
    from runctl.events import Event
    from runctl.ledger import Ledger
    from runctl.providers.aws.session import Session
    from runctl.trust import Trust

F = TypeVar("F", bound=Callable[..., Any])


class Context(msgspec.Struct, frozen=True):
    """The common options of one call."""

    output: str
    quiet: bool
    config_file: Path | None
    profile: str | None
    region: str | None
    _reached: dict[str, Cloud] = msgspec.field(default_factory=dict[str, "Cloud"])
    _settled: list[Settings] = msgspec.field(default_factory=list[Settings])

    @property
    def json(self) -> bool:
        return self.output == "json"

    def settings(self) -> Settings:
        """The settings of this call, read once: what a script writes meanwhile does not count.

        Raises NotTrusted where a project's file wants more than it may without the user's yes.
        """
        if not self._settled:
            from runctl.cli import trusting

            self._settled.append(trusting.settle(self, self.read_settings(), self.trust()))
        return self._settled[0]

    def read_settings(self) -> Settings:
        """The settings as they are now, without those that have no yes."""
        found = load(Path.cwd(), file=self.config_file, trust=self.trust())
        return found.under_flags({"aws.region": self.region, "aws.profile": self.profile})

    def trust(self) -> Trust:
        from runctl.clouds import home
        from runctl.trust import of_user

        return of_user(home())

    def ledger(self) -> Ledger:
        """What sandboxes left in it that have ended is closed first, so that no command sees it alive."""
        from runctl.cli import attention
        from runctl.clouds import home
        from runctl.ledger import Ledger

        if Ledger.is_missing(home()):
            attention.mention_missing(self)
        ledger = Ledger.open(home())
        try:
            attention.close_ended(self, ledger)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def cloud(self, name: str, settings: Settings) -> Cloud:
        """The cloud of a job: the sandbox, or AWS as flags and settings say.

        Operations that were left unfinished are mentioned first; a word on high costs follows in the end.
        """
        from runctl import clouds
        from runctl.clouds import aws_cloud, sandbox_cloud
        from runctl.render import output

        clouds.code_for_mfa = output.ask_code
        aws = settings.values.aws
        found = sandbox_cloud() if name == "sandbox" else aws_cloud(region=aws.region, profile=aws.profile)
        if not self._reached:
            from runctl.cli import attention

            attention.mention_unfinished(self)
        self._reached[found.key] = found
        return found

    @property
    def reached(self) -> Iterable[Cloud]:
        """The clouds that the command has touched."""
        return self._reached.values()

    def session(self, settings: Settings, on: str | None = None, *, region: str | None = None) -> Session:
        """A session with the cloud that `--on` or the setting `cloud` names."""
        from runctl.providers.aws.session import Session

        cloud = self.cloud(on or settings.values.cloud, settings)
        if region or self.region:
            cloud = msgspec.structs.replace(cloud, region=region or self.region)
        return Session(cloud, emit=self.emit())

    def emit(self) -> Callable[[Event], None]:
        """Where the events of a command go that answers with one object: beside it."""
        from runctl.render.follow import JsonFollower, TextFollower

        return JsonFollower(talk=True) if self.json else TextFollower(quiet=self.quiet)


def common(function: F) -> F:
    """Add the common options; the command gets a `Context` as its first argument."""
    option = click.option(
        "--output",
        "-o",
        "output_format",
        type=click.Choice(FORMATS),
        help="Text for people, JSON for scripts.  [default: text]",
    )
    return option(without_format(function))


def without_format(function: F) -> F:
    """The common options but `--output`, which must then come as `output_format`."""

    @click.option("--quiet", "-q", is_flag=True, help="Print ids alone.")
    @click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        help="Read this configuration file instead of the usual ones.",
    )
    @click.option("--profile", help="The AWS profile.")
    @click.option("--region", help="The AWS region.")
    @functools.wraps(function)
    def wrapper(
        *args: Any,
        output_format: str | None,
        quiet: bool,
        config_file: Path | None,
        profile: str | None,
        region: str | None,
        **kwargs: Any,
    ) -> Any:
        before = _before_command()
        named = config_file or before.get("config")
        context = Context(
            output=output_format or before.get("output") or "text",
            quiet=quiet or bool(before.get("quiet")),
            config_file=Path(named) if named else None,
            profile=profile or before.get("profile"),
            region=region or before.get("region"),
        )
        try:
            return function(context, *args, **kwargs)
        finally:
            if context.reached:
                from runctl.cli import attention

                attention.warn_of_costs(context)

    return cast(F, wrapper)


def on_cloud(function: F) -> F:
    """`--on`: which cloud a command works on; it comes as `on`, None where the setting decides."""
    return click.option(
        "--on", type=click.Choice(["aws", "sandbox"]), help="Which cloud.  [default: the setting cloud]"
    )(function)


def of_user(function: F) -> F:
    """`--of-user`: whose an adopted job is said to be, where it is not the caller's own."""
    return click.option(
        "--of-user", metavar="NAME", help="An adopted job that is said to be this user's, who is not you."
    )(function)


def _before_command() -> dict[str, Any]:
    """The common options that stood before the command's name."""
    return click.get_current_context().find_root().obj or {}


def user_name(settings: Settings) -> str:
    return settings.values.user or getpass.getuser()


def complete_jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Job ids for shell completion; nothing where the ledger cannot be read."""
    try:
        from runctl.clouds import home
        from runctl.ledger import Ledger

        if not home().is_dir():
            return []
        with Ledger.open(home()) as ledger:
            known = [job.id for job in ledger.jobs.list(limit=100) if job.id.startswith(incomplete)]
            # A shell sets what it is given into the line as it is: an adopted id may be a command.
            return [job for job in known if quoted(job) == job]
    except Exception:
        # A shell that completes a word has no place for an error.
        return []


def job_argument(function: F) -> F:
    """A job by its id, the beginning of it, or `last`."""
    return click.argument("job", default="last", shell_complete=complete_jobs)(function)
