"""Where bytes lie and how they move: locations, stores, code bundles."""
