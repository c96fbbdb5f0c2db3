"""Batch workers on a Ray cluster."""
