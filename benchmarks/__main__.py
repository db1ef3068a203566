"""Every benchmark, one after the other: `make bench`."""

from benchmarks import agent, listing, startup

startup.main()
agent.main()
listing.main()
