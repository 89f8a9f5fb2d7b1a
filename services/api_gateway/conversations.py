"""Whose conversation it is: the first to write in it owns it."""

import asyncio
from typing import Any

from sqlalchemy import BindParameter, CompoundSelect, bindparam, select, union_all
from sqlalchemy.dialects.postgresql import insert

from services.api_gateway.cache import BoundedCache
from services.api_gateway.database import Database, DatabaseAway
from services.database.tables import conversations
from services.runtime.pseudonyms import Pseudonyms

CACHED_OWNERS = 100_000
CLAIM_SECONDS = 2.0
"""How long a message may wait for PostgreSQL before it is accepted without having asked."""
CLAIM_TRIES = 3


class Conversations:
    """Claims conversations for users; owners never change, so they are remembered."""

    def __init__(self, database: Database, pseudonyms: Pseudonyms) -> None:
        self._database = database
        self._pseudonyms = pseudonyms
        self._owners: BoundedCache[str, str] = BoundedCache(CACHED_OWNERS)

    async def claim(self, conversation_id: str, user_id: str) -> bool:
        """Make the conversation the user's if it is nobody's; return False if it is someone else's.

        What was his before his data was erased is his still.

        While PostgreSQL is away a conversation whose owner is not remembered counts as the user's: the tracker
        claims it when it folds the message.
        """
        owner = self._owners.get(conversation_id)
        if owner is None:
            try:
                async with asyncio.timeout(CLAIM_SECONDS):
                    owner = await self._owner(conversation_id, user_id)
            except (DatabaseAway, TimeoutError):
                return True
            self._owners.put(conversation_id, owner)
        return owner == user_id or self._pseudonyms.stands_for(owner, user_id)

    async def _owner(self, conversation_id: str, user_id: str) -> str:
        # A claim that commits between the two halves of the statement is seen by neither, but by the next try.
        for _ in range(CLAIM_TRIES):
            async with self._database.statements() as connection:
                parameters = {"conversation_id": conversation_id, "user_id": user_id}
                owner: str | None = await connection.scalar(_CLAIM, parameters)
            if owner is not None:
                return owner
        raise DatabaseAway("PostgreSQL did not say whose conversation this is; try again.")


def _claim() -> CompoundSelect[Any]:
    """Return the statement that claims a conversation and gives its owner, in one round trip."""
    table = conversations.c
    conversation_id: BindParameter[str] = bindparam("conversation_id")
    user_id: BindParameter[str] = bindparam("user_id")
    claimed = (
        insert(conversations)
        .values(conversation_id=conversation_id, user_id=user_id)
        .on_conflict_do_nothing()
        .returning(table.user_id)
        .cte("claimed")
    )
    known = select(table.user_id).where(table.conversation_id == conversation_id)
    return union_all(select(claimed.c.user_id), known)


_CLAIM = _claim()
