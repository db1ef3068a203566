"""Every benchmark, one after the other: `make bench`."""

from benchmarks import agent, startup

startup.main()
agent.main()
