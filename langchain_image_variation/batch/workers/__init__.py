"""Batch workers: their protocol, local processes, and calls in this process."""
