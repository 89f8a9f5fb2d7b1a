"""The messages of one conversation that are under way, and the task that works on them in turn."""

import asyncio
from collections import deque

from services.webhook_dispatcher.metrics import End
from services.webhook_dispatcher.tracking import Message, Phase

_HELD = frozenset({Phase.QUEUED, Phase.WAITING})
"""The phases in which nothing of a message runs or is published: it can be let go or failed at once."""
_BREAKABLE = frozenset({Phase.WAITING, Phase.CALLING})
"""The phases in which a cancel breaks off what a conversation's task does."""


class Conversation:
    """The messages of one conversation, in order; the first is the one that is worked on."""

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.task: asyncio.Task[None] | None = None

    @property
    def is_held(self) -> bool:
        """True while its first message only waits."""
        return self.messages[0].phase in _HELD

    def release(self) -> None:
        """Let go of what waits; a call that runs, or a result on its way, comes to its end."""
        if self.task is not None and self.is_held:
            self.task.cancel()

    def cancel(self, message: Message) -> bool:
        """Cancel one of the messages. Return True if it is done with that, False if the task is to end it."""
        message.cancelled = True
        if self.messages[0] is not message:
            self.messages.remove(message)
            return True
        if self.task is not None and message.phase in _BREAKABLE and not message.overloaded:
            self.task.cancel()
        return False

    def overload(self, last: Message) -> list[Message]:
        """Fail a message at once, and before it what waits here for the same persona; return those.

        A call that runs comes to its end first: a conversation's messages end in their order.
        """
        failed = []
        for message in self.messages:
            if message.event.persona_id == last.event.persona_id and message.phase in _HELD:
                message.overloaded = True
                failed.append(message)
                if message.phase is Phase.WAITING and self.task is not None:
                    self.task.cancel()
            if message is last:
                break
        return failed


def ending(message: Message) -> End:
    """Return how a message that is done came to its end."""
    if message.cancelled:
        return End.CANCELLED
    return End.OVERLOADED if message.overloaded else End.CALLED
