"""A client that writes bytes and reads answers, several on one connection."""

import socket


class RawClient(socket.socket):
    """A socket that is read through one buffer, however many answers are read from it.

    `http.client.HTTPResponse` makes a buffer for each answer. What came in one segment with its
    own answer, the beginning of the next, would be lost with it.
    """

    def __init__(self):
        super().__init__()
        self._reader = super().makefile("rb")

    def makefile(self, *_arguments, **_options):
        return _Lent(self._reader)

    def recv(self, size):
        return self._reader.read1(size)

    def close(self):
        self._reader.close()  # a socket stays open for as long as a file of it
        super().close()


class _Lent:
    """A file that whoever borrows it cannot close."""

    def __init__(self, file):
        self._file = file

    def __getattr__(self, name):
        return getattr(self._file, name)

    def close(self):
        pass  # the next answer is read from it
