"""The worker: what receives, runs and settles."""
