"""What runs on a machine, as its own shell tells it: one script, and a strict reader of its answer."""

from __future__ import annotations

from typing import Annotated

import msgspec

SCRIPT = r"""
LC_ALL=C; export LC_ALL
clean() { tr '\000\n\t' '   ' | tr -cd '[:alnum:] ._/=:,@%+-' | cut -c1-120 | sed 's/ *$//'; }

# Ourselves and those above us are no training.
mine=" "; pid=$$
while [ "${pid:-0}" -gt 1 ]; do
  mine="$mine$pid "
  pid=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -d' ' -f2)
done

# Machines whose metadata is on the loopback share a host: a process is of this one if it asks the same.
metadata=$AWS_EC2_METADATA_SERVICE_ENDPOINT
here() {
  case $metadata in
    http://127.0.0.1*|http://localhost*)
      grep -qzFx "AWS_EC2_METADATA_SERVICE_ENDPOINT=$metadata" "/proc/$1/environ" 2>/dev/null ;;
  esac
}

told=0
tell() {
  case $mine in *" $2 "*) return 0 ;; esac
  here "$2" || return 0
  command=$(clean 2>/dev/null <"/proc/$2/cmdline")
  [ -n "$command" ] || [ "$1" = gpu ] || return 0
  # SSM cuts an answer at 24,000 characters: after twenty, the numbers alone.
  told=$((told + 1)); [ "$told" -le 20 ] || command=
  printf '{"kind":"process","why":"%s","pid":%d,"cpu":%d,"command":"%s"}\n' "$1" "$2" "$3" "$command"
}

echo '{"kind":"begin","version":1}'

for state in "${HOME:-/root}"/.runctl/jobs/*/attempt-*/state.json; do
  [ -f "$state" ] || continue
  phase=$(sed -n 's/.*"phase": "\([a-z]*\)".*/\1/p' "$state" | head -n 1)
  [ "$phase" = ended ] && continue
  agent=$(sed -n 's/.*"agent_pid": \([0-9]*\).*/\1/p' "$state" | head -n 1)
  [ -n "$agent" ] && [ -r "/proc/$agent/cmdline" ] || continue
  tr '\000' ' ' <"/proc/$agent/cmdline" | grep -qE 'agent[.]py|runctl' || continue
  folder=${state%/state.json}; job=${folder%/attempt-*}
  printf '{"kind":"agent","job":"%s","attempt":%d,"phase":"%s"}\n' \
    "$(printf %s "${job##*/}" | clean)" "${folder##*/attempt-}" "$phase"
done

if [ -d /run/systemd/system ]; then
  systemctl list-units --type=service --state=active,activating,deactivating --plain --no-legend 'runctl-*' |
  head -n 20 | while read -r unit _; do
    printf '{"kind":"unit","name":"%s"}\n' "$(printf %s "$unit" | clean)"
  done
fi

for file in $(grep -lz '^RUNCTL_JOB_ID=.' /proc/[0-9]*/environ 2>/dev/null | head -n 100); do
  pid=${file#/proc/}; tell job "${pid%/environ}" 0
done

if command -v nvidia-smi >/dev/null 2>&1; then
  if pids=$(nvidia-smi --query-compute-apps=pid --format=csv,noheader,nounits 2>/dev/null) &&
     use=$(nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits 2>/dev/null); then
    for pid in $pids; do case $pid in *[!0-9]*) ;; *) tell gpu "$pid" 0 ;; esac; done
    for percent in $use; do
      case $percent in *[!0-9]*) ;; *) printf '{"kind":"gpu","busy":%d}\n' "$percent" ;; esac
    done
  else
    echo '{"kind":"trouble","what":"nvidia-smi"}'
  fi
fi

sample() {
  cat /proc/[0-9]*/stat 2>/dev/null | sed 's/^\([0-9]*\) (.*) /\1 /' | awk '{ print $1, $13 + $14 }'
}
{ sample; sleep 0.5; echo next; sample; } |
awk -v tick="$(getconf CLK_TCK 2>/dev/null || echo 100)" '
  $1 == "next" { second = 1; next }
  !second { first[$1] = $2; next }
  $1 in first { use = int(($2 - first[$1]) * 200 / tick); if (use >= 10) print $1, use }' |
sort -k2,2nr | head -n 20 | while read -r pid use; do tell cpu "$pid" "$use"; done

words='(^|/)(torchrun|deepspeed|accelerate|horovodrun|mpirun)$'
words="$words"'|(^|[/._-])(pre)?(train|finetune|fine_tune)[A-Za-z0-9_-]*(\.py)?$'
for file in $(grep -lzE "$words" /proc/[0-9]*/cmdline 2>/dev/null | head -n 50); do
  pid=${file#/proc/}; tell command "${pid%/cmdline}" 0
done

echo '{"kind":"end"}'
"""
"""Plain POSIX shell over /proc, with GNU grep and nvidia-smi where they are. It changes nothing."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Text = Annotated[str, msgspec.Meta(max_length=500)]


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    pass


class Begin(_Line, frozen=True, tag="begin"):
    """The first line; `version` is that of the script."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1)]


class AgentLine(_Line, frozen=True, tag="agent"):
    """An attempt that has not ended by its own state, and whose agent's process lives."""

    job: Text
    attempt: Count
    phase: Text


class Unit(_Line, frozen=True, tag="unit"):
    """A systemd unit of ours that is active."""

    name: Text


class Process(_Line, frozen=True, tag="process"):
    """A process and why it is told of: `job` (our variables), `gpu`, `cpu` or `command`; CPU in percent."""

    why: Annotated[str, msgspec.Meta(pattern="^(job|gpu|cpu|command)$")]
    pid: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    cpu: Count
    command: Text


class Gpu(_Line, frozen=True, tag="gpu"):
    """How busy a GPU is, in percent."""

    busy: Annotated[int, msgspec.Meta(ge=0, le=100)]


class Trouble(_Line, frozen=True, tag="trouble"):
    """A tool that is there and does not answer."""

    what: Text


class End(_Line, frozen=True, tag="end"):
    """The last line: an answer without it was cut."""


Seen = AgentLine | Unit | Process | Gpu | Trouble
_decoder = msgspec.json.Decoder(Begin | Seen | End)


def parse(output: str) -> tuple[Seen, ...] | None:
    """What the script told; None for an answer that is cut or is not the script's."""
    try:
        lines = [_decoder.decode(line) for line in output.strip("\n").split("\n")]
    except (msgspec.MsgspecError, UnicodeEncodeError):
        return None
    if len(lines) < 2 or not isinstance(lines[0], Begin) or not isinstance(lines[-1], End):
        return None
    told = tuple(line for line in lines[1:-1] if not isinstance(line, Begin | End))
    return told if len(told) == len(lines) - 2 else None
