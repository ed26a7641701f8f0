"""Ports on loopback for servers that must be told one."""

import socket


def free_port() -> int:
    """Name a port that nobody listens on; somebody may take it before the server does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
