"""The sandbox cloud: a real HTTP AWS on the loopback, whose machines really run."""
