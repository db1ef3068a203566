"""The program on the machine that runs an attempt. Standard library only, Python 3.8 or later.

It is shipped as one file (`archive.build`) and knows nothing of the rest of runctl.
"""
