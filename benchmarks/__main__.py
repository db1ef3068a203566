"""Every benchmark, one after the other: `make bench`. The exit code is 1 where one missed its goal."""

import sys

from benchmarks import agent, listing, planning, startup

sys.exit(max([run() for run in (startup.main, agent.main, listing.main, planning.main)]))
