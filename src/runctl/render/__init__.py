"""How results look: tables, figures, live lines."""
