"""The messages of one conversation that are under way, and the task that works on them in turn."""

import asyncio
from collections import deque

from services.webhook_dispatcher.tracking import Message, Phase

BREAKABLE = frozenset({Phase.WAITING, Phase.CALLING})
"""The phases in which a cancel breaks off what a conversation's task does."""


class Conversation:
    """The messages of one conversation, in order; the first is the one that is worked on."""

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.task: asyncio.Task[None] | None = None
