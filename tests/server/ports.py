"""Free ports for servers that cannot pick one themselves."""

import socket


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that no process listens on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
