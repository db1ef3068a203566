"""Whether a script is the same after an interruption: what its runs said and left. Nothing is run here."""
