"""Measures of the local engine's variations that are compared with judgements of 168 variations."""
