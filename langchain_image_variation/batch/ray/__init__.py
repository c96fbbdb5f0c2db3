"""Runs a batch on a Ray cluster."""
