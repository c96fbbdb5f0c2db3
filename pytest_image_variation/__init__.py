"""A pytest plugin for programs that request image variations, and a conformance kit."""
