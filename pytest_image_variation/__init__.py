"""Helps test suites around image variations: pictures that keep and that break the contract."""
