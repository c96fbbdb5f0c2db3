"""Guarded HTTP: flows and their drivers, deadlines, and the fetching of images from URLs."""
