"""The body of an answer as it arrives: kept up to a cap, or assembled if it is a stream. No I/O."""

from services.contracts.streams import Stream, opens_stream

MAX_BODY_BYTES = 512 * 1024
"""Of an answer that is no stream: the largest reply, and room for the JSON around it."""
KEPT_OF_STREAM = 64 * 1024
"""How much of a stream's own lines is kept, to show what a failing one sent."""


class IncomingBody:
    """Takes a body piece by piece; memory stays within a few times MAX_BODY_BYTES, however much arrives."""

    def __init__(self, *, may_stream: bool) -> None:
        self.raw = bytearray()
        """All of the body, or the beginning of a stream."""
        self.stream: Stream | None = None
        self.too_large = False
        self._undecided = may_stream
        self._blank = True

    @property
    def over(self) -> bool:
        """True when the rest need not be read."""
        return self.too_large or (self.stream is not None and self.stream.over)

    def feed(self, piece: bytes) -> str:
        """Take the next piece; return the text that it adds to a streamed reply."""
        if self.stream is not None:
            self.raw += piece[: max(0, KEPT_OF_STREAM - len(self.raw))]
            return self.stream.feed(piece)
        self.raw += piece
        # All of it is looked at no more than twice, even if it comes as line feed after line feed.
        self._blank = self._blank and piece.isspace()
        if self._undecided and not self._blank and b"\n" in piece and self._streams():
            self.stream = Stream()
            return self.stream.feed(bytes(self.raw))
        self.too_large = len(self.raw) > MAX_BODY_BYTES
        return ""

    def close(self) -> str:
        """Take the end of the body; return the text that it adds to a streamed reply."""
        return "" if self.stream is None else self.stream.close()

    def _streams(self) -> bool:
        line, end, _ = bytes(self.raw).lstrip().partition(b"\n")
        self._undecided = not end
        return bool(end) and opens_stream(line)
