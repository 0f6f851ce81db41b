"""A worker's connections to all servers: each request goes to every server at once, each answer is waited for."""

import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from lepton.errors import DeadlineExceeded, PermissionDenied, Unavailable
from lepton.train.parallel.parameter_server import frames
from lepton.train.parallel.parameter_server.server import keep_alive

ANSWER_S: Final = 3600.0  # a pull may wait for the slowest worker's step

Answer = tuple[frames.Header, dict[str, Tensor]]


class Client:
    """One worker at all servers. Raises Unavailable once a server is gone."""

    def __init__(self, servers: Sequence[tuple[tuple[str, int], str]], *, worker: int) -> None:
        """Connects to the servers at these addresses, each with its secret, and joins."""
        self._connections: list[socket.socket] = []
        self.step = 0  # the steps that the slowest worker had made
        try:
            for number, (address, secret) in enumerate(servers):
                self._connections.append(self._connect(number, address))
                self._join(number, secret, worker)
        except BaseException:
            self.close()
            raise

    def ask(self, header: Mapping[str, Any], tensors: Sequence[Mapping[str, Tensor]] | None = None) -> list[Answer]:
        """The answers of all servers, in their order; `tensors`: what goes to each."""
        for number in range(len(self._connections)):
            self._send(number, header, None if tensors is None else tensors[number])
        return [self._receive(number) for number in range(len(self._connections))]

    def close(self) -> None:
        """Ends the connections; the servers take that for leaving."""
        for connection in self._connections:
            connection.close()

    @staticmethod
    def _connect(number: int, address: tuple[str, int]) -> socket.socket:
        try:
            connection = socket.create_connection(address, timeout=10)
        except OSError as error:
            raise Unavailable("SERVER_GONE", server=str(number), why=str(error)) from error
        keep_alive(connection)
        connection.settimeout(ANSWER_S)
        return connection

    def _join(self, number: int, secret: str, worker: int) -> None:
        greeting, _ = self._receive(number)
        mine = frames.nonce()
        proof = frames.proof(secret, "worker", greeting.get("nonce"), worker)
        self._send(number, {"worker": worker, "nonce": mine, "proof": proof}, None)
        welcome, _ = self._receive(number)
        if not frames.is_proof(welcome.get("proof"), secret, "server", mine):
            raise PermissionDenied("SERVER_UNPROVEN", server=str(number))
        self.step = max(self.step, int(welcome["step"]))

    def _send(self, number: int, header: Mapping[str, Any], tensors: Mapping[str, Tensor] | None) -> None:
        try:
            for part in frames.encode(header, tensors):
                self._connections[number].sendall(part)
        except OSError as error:
            raise Unavailable("SERVER_GONE", server=str(number), why=str(error)) from error

    def _receive(self, number: int) -> Answer:
        header, content = frames.lengths(self._read(number, frames.LENGTHS.size))
        answer, tensors = frames.decode(self._read(number, header), self._read(number, content))
        if "error" in answer:
            raise Unavailable("SERVER_GONE", server=str(number), why=str(answer.get("message")))
        return answer, tensors

    def _read(self, number: int, size: int) -> bytes:
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            try:
                count = self._connections[number].recv_into(view[done:])
            except TimeoutError as error:
                raise DeadlineExceeded("SERVERS_SILENT", server=str(number), seconds=f"{ANSWER_S:.0f}") from error
            except OSError as error:
                raise Unavailable("SERVER_GONE", server=str(number), why=str(error)) from error
            if not count:
                raise Unavailable("SERVER_GONE", server=str(number), why="it closed the connection")
            done += count
        return bytes(data)
