"""OmniDaemon beside other task queues on one Redis: `python -m benchmarks.peers`."""
