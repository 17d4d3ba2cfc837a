"""What OmniDaemon takes: `python -m benchmarks` prints a table, and writes JSON if told where."""
