"""The documentation; a package so that `python -m docs.generate` finds what writes parts of it."""
