"""Train ML models on cheap, interruptible machines without losing work, money or data."""

__version__ = "0.1.0"
