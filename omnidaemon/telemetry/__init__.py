"""OpenTelemetry: spans and metrics of sending and of running, where somebody collects them."""
