"""A transfer under way: both sides listed, workers started, what was staged removed once it has arrived."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from runctl.agent.receiving import CHANGED, DAMAGED, FORGED
from runctl.errors import Interrupted, TransferError
from runctl.events import Emit, Notice, Progress
from runctl.providers.aws.session import Session
from runctl.resources import leg_plan, object_proofs
from runctl.resources.composing import Composer
from runctl.resources.leg_plan import LegOptions, LegPlan, Parcel, Side
from runctl.resources.sides import (
    InstanceSide,
    LocalSide,
    S3Side,
    Worked,
    Worker,
    folder_of,
    names,
    numbers,
    staged_before,
)
from runctl.storage.listing import LeftOut
from runctl.storage.objects import is_of_a_job
from runctl.storage.staging import SigningStore, Staging

PASSES = 4
"""How often what changed on its way is sent anew, before it is given up."""

_LOOK = 0.1
_LONGEST_LOOK = 1.0
_MOST_MEMORY = 384 * leg_plan.MIB
_COPIES = 3
"""Of a parcel, in its sender: as read, as packed, as sent."""

_ANEW = {
    CHANGED: ("changed while it was sent", "it changed each time that it was sent"),
    DAMAGED: ("came damaged", "it came damaged each time"),
    FORGED: ("is not what was sent: its seal is wrong", "it is not what was sent: its seal is wrong"),
}
"""Why a file is sent once more: in a notice, and when it is given up."""
_NAMED = 5


class Ends(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides of a transfer and what lies between them; `run` tells one try from the next.

    `staging` is it as seen from here; a machine may have URLs of its own for it. `key` is the transfer's.
    """

    source: LocalSide | InstanceSide | S3Side
    destination: LocalSide | InstanceSide | S3Side
    destination_text: str
    staging: Staging
    session: Session
    key: str
    run: str


class LegReport(msgspec.Struct, kw_only=True):
    """What came of a transfer. `would` lists files and sizes of a dry run, `would_delete` the rest of it."""

    moved: set[str] = msgspec.field(default_factory=set[str])
    moved_bytes: int = 0
    equal: int = 0
    deleted: set[str] = msgspec.field(default_factory=set[str])
    left_out: tuple[LeftOut, ...] = ()
    failed: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    would: tuple[tuple[str, int], ...] = ()
    would_delete: tuple[str, ...] = ()
    seconds: float = 0.0


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One pass: what to move, under which roots, in which parcels, packed how."""

    plan: LegPlan
    source_root: str
    destination_root: str
    pack: str
    number: int
    parcels: tuple[Parcel, ...] = ()


class Carrier:
    """Carries out one transfer."""

    def __init__(self, ends: Ends, options: LegOptions, emit: Emit, stopping: threading.Event) -> None:
        self._ends = ends
        self._options = options
        self._emit = emit
        self._stopping = stopping
        self._report = LegReport()
        self._starts = 0
        self._staged: dict[str, str] = {}
        self._from_s3 = isinstance(ends.source, S3Side)
        self._to_s3 = isinstance(ends.destination, S3Side)

    def run(self) -> LegReport:
        """Until both sides are equal. Raises TrainctlError; what has arrived stays."""
        try:
            report = self._run()
        except Exception:
            self._settle()
            raise
        self._settle()
        return report

    def _settle(self) -> None:
        for side in (self._ends.source, self._ends.destination):
            if isinstance(side, InstanceSide):
                side.machine.settle()

    def _run(self) -> LegReport:
        begun = time.monotonic()
        passes = 0
        while passes < PASSES:
            round_ = self._plan(passes)
            if self._options.dry_run:
                self._report.would = tuple((pair.source.key, pair.source.size) for pair in round_.plan.pairs)
                self._report.would_delete = round_.plan.delete
                break
            if round_.plan.is_done:
                break
            before = self._report.moved_bytes
            if self._move_in_turns(round_) == "expired":
                self._require_progress(before)
                continue
            passes += 1
            again = {key: _ANEW[why] for key, why in self._report.failed.items() if why in _ANEW}
            if not again:
                break
            if passes == PASSES:
                self._report.failed.update({key: why for key, (_, why) in again.items()})
                break
            for key, (said, _) in again.items():
                self._emit(Notice(text=f"{key} {said}: it starts anew", warning=True))
                del self._report.failed[key]
        self._report.seconds = time.monotonic() - begun
        return self._report

    def _require_progress(self, before: int) -> None:
        """Rights that run out in a long transfer are given anew; those that never were good are not."""
        if self._report.moved_bytes == before:
            raise TransferError(
                "S3 calls the rights to the staging prefix outdated",
                why="nothing could be moved with them",
                next="renew your credentials, and look at this computer's clock",
            )
        self._emit(Notice(text="the rights to the staging prefix ran out: going on with new ones"))

    # What to do

    def _plan(self, number: int) -> Round:
        ends = self._ends
        source = ends.source.look(checksum=self._options.checksum)
        single = source.kind == "file"
        only = source.files[0].key if single and source.files else None
        destination = ends.destination.look(only=only, checksum=self._options.checksum)
        rename = names(source, str(ends.source), ends.destination_text, destination)
        plan = leg_plan.decide(
            source,
            destination,
            self._options,
            rename=rename,
            from_here=isinstance(ends.source, LocalSide),
            to_s3=self._to_s3,
        )
        if number == 0:
            self._report.equal = plan.equal
        self._report.left_out = plan.left_out
        into = single and destination.kind != "folder" and not ends.destination_text.endswith("/")
        root = folder_of(ends.destination, parent=into)
        if isinstance(ends.destination, S3Side):
            free = tuple(key for key in plan.delete if not is_of_a_job(f"{root}/{key}"))
            plan = msgspec.structs.replace(plan, delete=free)
        return Round(
            plan=plan,
            source_root=folder_of(ends.source, parent=single),
            destination_root=root,
            pack=self._pack(source, destination),
            number=number,
        )

    @property
    def _raw(self) -> bool:
        """Objects that are somebody's own travel as they are, one by one."""
        return self._from_s3 or self._to_s3

    def _pack(self, source: Side, destination: Side) -> str:
        if not self._options.compress:
            return ""
        return leg_plan.most_shared((source.packers, destination.packers))

    # Moving

    def _move_in_turns(self, round_: Round) -> str:
        """So many files at a time that their URLs and names fit in memory, here and there."""
        for plan in leg_plan.turns(round_.plan):
            parcels = leg_plan.parcels(plan.pairs, packed=not self._raw, salt=round_.pack)
            turn = msgspec.structs.replace(round_, plan=plan, parcels=tuple(parcels))
            if (state := self._move(turn)) == "expired":
                return state
        return "done"

    def _move(self, round_: Round) -> str:
        """One pass over what differs; answers how it ended: done or expired."""
        self._say(round_)
        workers: dict[str, Worker] = {}
        try:
            self._start(round_, workers)
            state = self._follow(round_, workers)
        except Exception:
            for worker in workers.values():
                worker.stop()
            raise
        told = {role: worker.look() for role, worker in workers.items()}
        self._count(round_, told)
        if self._to_s3 and state == "done":
            self._compose(round_, told["send"])
        self._delete(round_, state)
        return state

    def _say(self, round_: Round) -> None:
        if self._options.compress and round_.number == 0:
            self._emit(Notice(text=f"packing with {round_.pack}"))
        if there := sum(length for pair in round_.plan.pairs for _, length in pair.done):
            self._emit(Notice(text=f"{there} bytes came at an earlier try and are not sent again"))

    def _start(self, round_: Round, found: dict[str, Worker]) -> None:
        ends = self._ends
        self._starts += 1
        name = f"{ends.run}-{self._starts}"
        if not isinstance(ends.source, S3Side):
            found["send"] = ends.source.work(self._send_spec(round_), f"send-{name}")
        if not isinstance(ends.destination, S3Side):
            found["receive"] = ends.destination.work(self._receive_spec(round_), f"receive-{name}")

    def _send_spec(self, round_: Round) -> dict[str, Any]:
        ends = self._ends
        staged = self._what_is_staged()
        left = [parcel for parcel in round_.parcels if parcel.name not in staged]
        if isinstance(ends.destination, S3Side):
            whole = [parcel for parcel in left if leg_plan.is_whole(parcel, round_.plan.pairs)]
            store = ends.destination.store(round_.destination_root)
            targets = store.sign("PUT", [round_.plan.pairs[parcel.slices[0][0]].target for parcel in whole])
            urls = {parcel.name: url for parcel, url in zip(whole, targets, strict=True)}
        else:
            urls = {}
        others = [parcel.name for parcel in left if parcel.name not in urls]
        urls.update(zip(others, self._seen_by(ends.source).sign("PUT", others), strict=True))
        return {
            **self._spec("send", round_.source_root, [pair.source.key for pair in round_.plan.pairs], round_),
            "pack": round_.pack,
            "parcels": [
                {"url": urls[parcel.name], "slices": parcel.slices, "raw": self._raw, "name": parcel.name}
                for parcel in left
            ],
        }

    def _receive_spec(self, round_: Round) -> dict[str, Any]:
        ends, pairs = self._ends, round_.plan.pairs
        parcels: list[dict[str, Any]] = []
        proofs: list[object_proofs.Row] = []
        if isinstance(ends.source, S3Side):
            store = ends.source.store(round_.source_root)
            proofs, unproven = object_proofs.ask(store, [pair.source for pair in pairs])
            self._tell_unproven([pairs[number].target for number in unproven])
            urls = store.sign("GET", [pair.source.key for pair in pairs])
            for parcel in round_.parcels:
                number = parcel.slices[0][0]
                etag = pairs[number].source.etag
                parcels.append({"url": urls[number], "slices": parcel.slices, "raw": True, "etag": etag})
        else:
            urls = self._seen_by(ends.destination).sign("GET", [parcel.name for parcel in round_.parcels])
            parcels.extend(
                {"url": url, "slices": parcel.slices, "name": parcel.name}
                for parcel, url in zip(round_.parcels, urls, strict=True)
            )
        plan = round_.plan
        safe = not plan.left_out and not self._report.failed
        return {
            **self._spec("receive", round_.destination_root, [pair.target for pair in pairs], round_),
            "parcels": parcels,
            "proofs": proofs,
            "done": [(number, pair.done) for number, pair in enumerate(pairs) if pair.done],
            "stale": plan.stale,
            "delete": plan.delete if safe else (),
        }

    def _what_is_staged(self) -> set[str]:
        """Parcels that need not be sent again: who gets one looks at its seal; an object's piece has none."""
        found = self._ends.staging.list()
        if not self._to_s3:
            return {info.key for info in found}
        self._staged.update(staged_before(self._ends.staging, found, self._ends.key))
        return {info.key for info in found if self._staged.get(info.key) == info.etag.strip('"')}

    def _seen_by(self, side: LocalSide | InstanceSide | S3Side) -> Staging:
        return side.staging if isinstance(side, InstanceSide) else self._ends.staging

    def _tell_unproven(self, names: Sequence[str]) -> None:
        if names:
            some = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if names[_NAMED:] else "")
            why = "S3 keeps no checksum of it that can be computed there"
            self._emit(Notice(text=f"size and state alone are proven of {some}: {why}", warning=True))

    def _spec(self, role: str, root: str, keys: Sequence[str], round_: Round) -> dict[str, Any]:
        pairs = round_.plan.pairs
        heaviest = max((sum(item[2] for item in parcel.slices) for parcel in round_.parcels), default=1)
        return {
            "role": role,
            "root": root,
            "files": [
                (key, pair.source.size, pair.source.modified, pair.source.executable)
                for key, pair in zip(keys, pairs, strict=True)
            ],
            "threads": max(1, min(self._options.parallel, _MOST_MEMORY // (_COPIES * max(heaviest, 1)))),
            # Where both sides work, the sender's pace is the other's, too.
            "rate": (self._options.bandwidth or 0) if role == "send" or self._from_s3 else 0,
        }

    def _follow(self, round_: Round, workers: dict[str, Worker]) -> str:
        """Until every worker has ended; what has arrived leaves the staging prefix at once."""
        removed: set[int] = set()
        look = _LOOK
        while True:
            over = {role: worker.is_over for role, worker in workers.items()}
            told = {role: worker.look() for role, worker in workers.items()}
            self._tell(round_, told)
            for role, word in told.items():
                if word.state == "failed":
                    raise TransferError(
                        f"{self._end_of(role)} could not {role} everything",
                        why=word.why,
                        next="run the same command again: it goes on where this one stopped",
                    )
            if "receive" in told and not self._from_s3:
                self._remove_arrived(round_, told["receive"], removed)
            if any(word.state == "expired" for word in told.values()):
                for worker in workers.values():
                    worker.stop()
                return "expired"
            if all(over.values()):
                return self._end_state(told)
            if self._stopping.wait(look):
                raise Interrupted("The transfer was stopped", next="run the same command again: it goes on")
            look = min(look * 1.3, _LONGEST_LOOK)

    def _end_state(self, told: dict[str, Worked]) -> str:
        for role, word in told.items():
            if word.state != "done":
                raise TransferError(f"{self._end_of(role)} ended early", why=word.why or word.state)
        return "done"

    def _end_of(self, role: str) -> str:
        return str(self._ends.source if role == "send" else self._ends.destination)

    def _tell(self, round_: Round, told: dict[str, Worked]) -> None:
        word = told.get("receive") or told["send"]
        self._emit(Progress(task="transfer", done=float(word.moved), total=float(round_.plan.size), unit="B"))

    def _remove_arrived(self, round_: Round, word: Worked, removed: set[int]) -> None:
        fresh = numbers(word.parcels, len(round_.parcels)) - removed
        self._ends.staging.remove([round_.parcels[number].name for number in sorted(fresh)])
        removed |= fresh

    # What came of it

    def _count(self, round_: Round, told: dict[str, Worked]) -> None:
        pairs = round_.plan.pairs
        last = told.get("receive") or told["send"]
        for word in told.values():
            for number, why in word.faults:
                if number < len(pairs):
                    self._report.failed[pairs[number].source.key] = why
        self._report.moved_bytes += last.moved
        wire = (told.get("send") or last).wire
        if round_.pack:
            self._emit(Notice(text=f"{last.moved} bytes travelled as {wire}"))
        if "receive" in told:
            self._report.moved |= {pairs[number].source.key for number in numbers(last.files, len(pairs))}
            self._report.deleted |= set(last.deleted)

    def _compose(self, round_: Round, sent: Worked) -> None:
        """What came in parts is put together; what came whole has its name already."""
        staging = self._ends.staging
        assert isinstance(self._ends.destination, S3Side)  # noqa: S101 (asked before)
        assert isinstance(staging, SigningStore)  # noqa: S101 (where there is S3, there is a bucket)
        store = self._ends.destination.store(round_.destination_root)
        self._staged.update(sent.staged)
        composer = Composer(self._ends.session, staging, self._ends.key, self._staged, self._tell_unproven)
        failed = {number for number, _ in sent.faults}
        parts: dict[int, list[Parcel]] = {}
        for parcel in round_.parcels:
            parts.setdefault(parcel.slices[0][0], []).append(parcel)
        for number, parcels in parts.items():
            if number in failed:
                continue
            pair = round_.plan.pairs[number]
            try:
                if not (len(parcels) == 1 and leg_plan.is_whole(parcels[0], round_.plan.pairs)):
                    composer.put_together(store, pair, parcels)
                self._report.moved.add(pair.source.key)
            except TransferError as error:
                self._report.failed[pair.source.key] = f"{error}: {error.why}"

    def _delete(self, round_: Round, state: str) -> None:
        delete = round_.plan.delete
        if not delete or state != "done":
            return
        if self._report.failed or round_.plan.left_out:
            text = f"{len(delete)} files stay: nothing is deleted where something failed"
            self._emit(Notice(text=text, warning=True))
        elif isinstance(self._ends.destination, S3Side):
            self._ends.destination.store(round_.destination_root).remove(delete)
            self._report.deleted |= set(delete)
