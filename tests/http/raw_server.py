"""A server on a real socket that sends the exact bytes and faults of a test."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Reaction = bytes | Callable[[socket.socket], None]


@dataclass
class RawServer:
    """Gives the reactions to requests in turn, and repeats the last one."""

    reactions: list[Reaction]
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    tls: ssl.SSLContext | None = None
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def base_url(self) -> str:
        """The base URL for a client."""
        return f"http{'' if self.tls is None else 's'}://127.0.0.1:{self.port}/v1"

    def serve(self, listener: socket.socket) -> None:
        """Accept connections until the listener is closed."""
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(10)
            if self.tls is None:
                self._react(connection)
            else:
                with self.tls.wrap_socket(connection, server_side=True) as tls_connection:
                    self._react(tls_connection)

    def _react(self, connection: socket.socket) -> None:
        while (request := _request(connection)) is not None:
            reaction = self.reactions[min(len(self.requests), len(self.reactions) - 1)]
            self.requests.append(request)
            if isinstance(reaction, bytes):
                connection.sendall(reaction)
            else:
                reaction(connection)
                return


def _request(connection: socket.socket) -> bytes | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        piece = connection.recv(65536)
        if not piece:
            return None
        body += piece
    return head + b"\r\n\r\n" + body


@contextmanager
def raw_server(*reactions: Reaction, tls: ssl.SSLContext | None = None) -> Iterator[RawServer]:
    """Serve on loopback while the block runs, over TLS if there is a context for it."""
    server = RawServer(list(reactions), tls=tls)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = listener.getsockname()[1]
        thread = threading.Thread(target=server.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            # Closing alone does not wake a thread that is blocked in accept.
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def response(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Return a whole HTTP/1.1 response; underscores in header names become dashes."""
    lines = [f"HTTP/1.1 {status} Reason", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def reset(connection: socket.socket) -> None:
    """Close the connection with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def hang_up(connection: socket.socket) -> None:
    """Close the connection normally, without a response."""


_LONGEST = 30
"""Seconds after which a server that stalls or trickles gives up, longer than any test waits."""


def stall(connection: socket.socket) -> None:
    """Send nothing until the client closes the connection."""
    connection.settimeout(_LONGEST)
    connection.recv(1)


def trickle(data: bytes, head_length: int = 0) -> Callable[[socket.socket], None]:
    """Send the first bytes at once, and the rest byte by byte with pauses."""

    def react(connection: socket.socket) -> None:
        end = time.monotonic() + _LONGEST
        connection.sendall(data[:head_length])
        for index in range(head_length, len(data)):
            connection.sendall(data[index : index + 1])
            time.sleep(0.02)
            if time.monotonic() > end:
                return

    return react


def send_and_stall(data: bytes) -> Callable[[socket.socket], None]:
    """Send some bytes, and then nothing."""

    def react(connection: socket.socket) -> None:
        connection.sendall(data)
        stall(connection)

    return react


def send_and_hang_up(data: bytes) -> Callable[[socket.socket], None]:
    """Send some bytes, and close the connection."""
    return lambda connection: connection.sendall(data)
