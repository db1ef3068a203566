"""Every benchmark, one after the other: `make bench`."""

from benchmarks import agent, listing, planning, startup

startup.main()
agent.main()
listing.main()
planning.main()
