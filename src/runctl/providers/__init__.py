"""Where machines come from: this one, or AWS (the sandbox is AWS at another endpoint)."""
