"""Datasets: how training reads them, and which way is worth its money."""
