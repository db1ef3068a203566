"""What the user asked for, carried through attempts on machines that come and go."""
