"""One file for each format: it converts a program, and runs what came of it.

They run in the interpreter that has the format's packages, which need not be this project's: only
the standard library, NumPy and those packages are imported here.
"""
