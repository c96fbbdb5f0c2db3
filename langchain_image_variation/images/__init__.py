"""Pixels and image formats: decoding, PNG rules, color, fitting to a square."""
