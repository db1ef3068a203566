"""`python3 -m runctl.agent`, and the entry of the shipped file."""

from .main import main

main()
