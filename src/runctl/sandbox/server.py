# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalCall=false
"""The sandbox's one process: `python -m runctl.sandbox.server`, started by `runctl sandbox up`."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import msgspec

from runctl import private_files, processes
from runctl.clouds import SandboxRecord, sandbox_record_path
from runctl.errors import TrainctlError, ValidationError
from runctl.sandbox.isolation import choose
from runctl.sandbox.keyring import new_owner_key
from runctl.sandbox.state import ACCOUNT, VCPU_LIMIT, SandboxCloud
from runctl.sandbox.timing import CloudClock

TAKEN = 3
"""The exit code of a process that finds another one serving the same home."""

S3_KEYS = ("RUNCTL_SANDBOX_S3_ACCESS_KEY", "RUNCTL_SANDBOX_S3_SECRET_KEY")
"""The environment's names for the keys of another S3 server; arguments can be read by everybody."""

log = logging.getLogger("runctl.sandbox")


def main() -> None:
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.umask(0o077)  # all that it writes is its owner's alone; machines have a mask of their own
    record_path = sandbox_record_path()
    private_files.make_folder(record_path.parent)
    lock = open(record_path.parent / "lock", "w", opener=private_files.opener)  # noqa: SIM115 (held until the end)
    while not _locked(lock):
        if record_path.exists():
            sys.exit(TAKEN)
        time.sleep(0.05)  # the other one comes up, or goes down
    record_path.unlink(missing_ok=True)  # of one that crashed
    folder = record_path.parent / "state"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(0o700, parents=True)
    listener = socket.create_server(("127.0.0.1", 0))
    endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    s3_keys = other_s3_keys(os.environ) if options.s3 else None
    _set_up_moto(listener.getsockname()[1])
    shutil.rmtree(record_path.parent / "clock", ignore_errors=True)
    clock = CloudClock(record_path.parent / "clock", options.speed)
    cloud = SandboxCloud(
        folder=folder,
        region=options.region,
        isolation=options.isolation if options.isolation != "auto" else choose(),
        endpoint=endpoint,
        s3_endpoint=options.s3 or endpoint,
        own_key=new_owner_key(),
        s3_keys=s3_keys,
        image=[Path(sys.prefix)],
        clock=clock,
        seed=options.seed,
        vcpu_limit=options.vcpu_limit,
    )
    _serve(cloud, listener, record_path)


def _locked(lock: IO[str]) -> bool:
    """Whether the home is ours now. Of this process alone: neither a child nor a crash can keep it."""
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another server has it
        return False
    return True


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="runctl sandbox server")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--s3")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--isolation", choices=["auto", "namespaces", "plain"], default="auto")
    parser.add_argument("--vcpu-limit", type=int, default=VCPU_LIMIT)
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


def other_s3_keys(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """The keys of the S3 server that `--s3` names; None where it takes any. Raises ValidationError."""
    found = [environment.get(name, "") for name in S3_KEYS]
    if any(found) and not all(found):
        raise ValidationError(
            "The keys of the other S3 server are not whole", next=f"set both {S3_KEYS[0]} and {S3_KEYS[1]}"
        )
    return (found[0], found[1]) if all(found) else None


def _set_up_moto(port: int) -> None:
    """moto reads its settings when it is imported."""
    os.environ.update(
        MOTO_ENABLE_AMI_VALIDATION="true",
        MOTO_EC2_LOAD_DEFAULT_AMIS="false",
        MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION="true",
        MOTO_PORT=str(port),
    )


def _serve(cloud: SandboxCloud, listener: socket.socket, record_path: Path) -> None:
    from moto.moto_server.werkzeug_app import create_backend_app

    from runctl.sandbox import fleets, images, launches, listings, overlay, services, ssm_api
    from runctl.sandbox.front import Backends, Front
    from runctl.sandbox.wire import Handler, Server

    assert fleets and launches and listings  # noqa: PT018, S101 (imported for what they replace in moto)

    overlay.use(cloud)
    ssm_api.install(cloud)
    overlay.keep_time()
    services.seed()
    cloud.keys.given_out = services.given_out
    images.seed(cloud.region)
    token = secrets.token_urlsafe(24)
    controls = Controls(cloud)
    app = Front(cloud, Backends(create_backend_app), controls, token)
    server = Server("127.0.0.1", 0, app, Handler, fd=listener.fileno())
    controls.stop = lambda: threading.Thread(target=server.shutdown).start()
    signal.signal(signal.SIGTERM, lambda *_: controls.stop())
    signal.signal(signal.SIGINT, lambda *_: controls.stop())
    own = (cloud.own_key.access, cloud.own_key.secret)
    s3_access_key, s3_secret_key = cloud.s3_keys or own
    record = SandboxRecord(
        id=secrets.token_hex(4),
        endpoint=cloud.endpoint,
        s3_endpoint=cloud.s3_endpoint,
        region=cloud.region,
        account=ACCOUNT,
        access_key=own[0],
        secret_key=own[1],
        s3_access_key=s3_access_key,
        s3_secret_key=s3_secret_key,
        clock=str(cloud.clock.path),
        pid=os.getpid(),
        process=processes.identity(os.getpid()) or "",
        control_token=token,
    )
    temporary = record_path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with open(temporary, "xb", opener=private_files.opener) as file:
        file.write(msgspec.json.encode(record))
    temporary.replace(record_path)
    log.info("serving on %s, isolation %s, speed %s", cloud.endpoint, cloud.isolation, cloud.clock.speed)
    try:
        server.serve_forever(poll_interval=0.1)
    finally:
        record_path.unlink(missing_ok=True)
        with ThreadPoolExecutor(16) as workers:
            list(workers.map(lambda machine: machine.off(grace=5), list(cloud.machines.values())))
        cloud.schedule.close()
        shutil.rmtree(cloud.folder, ignore_errors=True)
        os._exit(0)  # moto's threads have nothing to say any more


class Controls:
    """What `runctl sandbox ...` and tests ask of the process."""

    def __init__(self, cloud: SandboxCloud) -> None:
        self._cloud = cloud
        self.stop: Any = lambda: None

    def __call__(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        handlers = {
            "status": self._status,
            "interrupt": self._interrupt,
            "reset": self._reset,
            "clock": self._clock,
            "fault-add": self._add_fault,
            "fault-clear": self._clear_faults,
            "bill": self._bill,
            "history": self._history,
            "down": self._down,
        }
        if what not in handlers:
            raise ValidationError(f"Unknown control {what!r}")
        return handlers[what](body)

    def _status(self, _: dict[str, Any]) -> dict[str, Any]:
        from runctl.sandbox import instances, volumes
        from runctl.sandbox.overlay import tag_of

        cloud = self._cloud
        with cloud.lock:
            machines = [
                {
                    "id": record.id,
                    "type": record.instance_type,
                    "zone": record.availability_zone,
                    "market": record.lifecycle or "on-demand",
                    "state": record._state.name,
                    "job": tag_of(record, "runctl:job"),
                    "launched": record.launch_time.isoformat() + "Z",
                    "age_seconds": cloud.clock.now() - record.launch_time.replace(tzinfo=UTC).timestamp(),
                    "ssm": cloud.online(record.id),
                }
                for record in instances.records()
            ]
            disks = [
                {
                    "id": disk.id,
                    "size_gib": int(disk.size),
                    "type": disk.volume_type,
                    "state": disk.status,
                    "instance": disk.attachment.instance.id if disk.attachment else "",
                    "job": tag_of(disk, "runctl:job"),
                }
                for disk in volumes.records()
            ]
        return {
            "endpoint": cloud.endpoint,
            "s3_endpoint": cloud.s3_endpoint,
            "region": cloud.region,
            "isolation": cloud.isolation,
            "speed": cloud.clock.speed,
            "vcpu_limit": cloud.vcpu_limit,
            "now": cloud.clock.now(),
            "machines": machines,
            "disks": disks,
            "faults": cloud.faults.list(),
            "spent": str(cloud.usage.spent()),
        }

    def _interrupt(self, body: dict[str, Any]) -> dict[str, Any]:
        from runctl.sandbox import spot

        with self._cloud.lock:
            spot.interrupt(
                body["instance"],
                action=body.get("action") or "terminate",
                notice=body.get("notice"),
                rebalance_first=body.get("rebalance_first"),
                dry_run=bool(body.get("dry_run")),
            )
        return {"instance": body["instance"]}

    def _reset(self, body: dict[str, Any]) -> dict[str, Any]:
        from runctl.sandbox import instances

        instances.reset(body["instance"])
        return {"instance": body["instance"]}

    def _clock(self, body: dict[str, Any]) -> dict[str, Any]:
        speed = float(body["speed"])
        if not 0 < speed <= 10_000:
            raise ValidationError(f"A clock cannot run {speed} times as fast", next="try 20")
        self._cloud.clock.set_speed(speed)
        return {"speed": speed}

    def _add_fault(self, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("service") == "imds":
            machine = self._cloud.machines.get(body.get("instance") or "")
            if machine is None:
                raise ValidationError("A metadata fault needs a running machine", next="--instance i-...")
            machine.metadata_fault("away")
        wanted = {key: value for key, value in body.items() if value is not None}
        return {"id": self._cloud.faults.add(wanted).id}

    def _clear_faults(self, body: dict[str, Any]) -> dict[str, Any]:
        kind = body.get("kind") or ""
        self._cloud.faults.clear(kind)
        if kind in {"", "away"}:
            for machine in list(self._cloud.machines.values()):
                machine.metadata_fault("none")
        return {}

    def _bill(self, _: dict[str, Any]) -> dict[str, Any]:
        lines = self._cloud.usage.bill()
        # Of these lines and no later ones: time goes on between two looks.
        return {"lines": lines, "total": str(sum((Decimal(line["usd"]) for line in lines), Decimal(0)))}

    def _history(self, _: dict[str, Any]) -> dict[str, Any]:
        changes = [
            {
                "at": change.at,
                "instance": change.instance,
                "state": change.state,
                "cause": change.cause,
                "job": change.job,
            }
            for change in list(self._cloud.usage.history)
        ]
        return {"changes": changes}

    def _down(self, _: dict[str, Any]) -> dict[str, Any]:
        self.stop()
        return {}


if __name__ == "__main__":
    try:
        main()
    except TrainctlError as error:
        sys.exit(f"{error.what}: {error.why}")
