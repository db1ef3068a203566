"""What things cost: dated prices, and the meter that integrates them over time."""
