"""What stands between an operation and harm: transactions, and the one door to destruction."""
