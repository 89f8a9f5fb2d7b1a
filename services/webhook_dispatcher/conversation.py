"""The messages of one conversation that are under way, and the task that works on them in turn."""

import asyncio
from collections import deque

from services.webhook_dispatcher.metrics import End
from services.webhook_dispatcher.tracking import Message, Phase

BREAKABLE = frozenset({Phase.WAITING, Phase.CALLING})
"""The phases in which a cancel breaks off what a conversation's task does."""


class Conversation:
    """The messages of one conversation, in order; the first is the one that is worked on."""

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.task: asyncio.Task[None] | None = None


def ending(message: Message) -> End:
    """Return how a message that is done came to its end."""
    if message.cancelled:
        return End.CANCELLED
    return End.OVERLOADED if message.overloaded else End.CALLED
