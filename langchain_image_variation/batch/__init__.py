"""Bulk runs on one machine: inputs, workers, a ledger that survives a crash, and a manifest."""
