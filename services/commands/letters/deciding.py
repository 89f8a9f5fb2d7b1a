"""Replays and drops dead letters: each once, however often and by how many it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from services.commands.letters.dispositions import Dispositions
from services.commands.letters.selection import Disposition, Letter, State
from services.runtime.dead_letter_tools import Replay, ensure_replayable

_CLOCKS = timedelta(minutes=5)
"""How far the clock of whoever began a replay may be from the broker's."""


@dataclass(slots=True)
class Done:
    """What became of the letters that were asked for."""

    decided: list[Letter] = field(default_factory=list)
    found: list[Letter] = field(default_factory=list)
    """Their replay had been broken off, after their records were published."""
    before: list[Letter] = field(default_factory=list)
    """They were decided on before."""


async def replay(letters: Sequence[Letter], dispositions: Dispositions, kafka: Replay, by: str) -> Done:
    """Publish each letter's record again, once for all time, and write down who did.

    A claim is committed before a record is published, and the decision, with its audit entry, after it. Where a claim
    is found without a decision, somebody was broken off in between: then it is looked up in Kafka whether the record
    is there. Raises NotReplayable before anything is done, KafkaUnavailable or CommandError in the middle: to ask
    again is safe.
    """
    ensure_replayable([letter.stored for letter in letters])
    done = Done()
    for letter in letters:
        if letter.state is State.REPLAYED:
            done.before.append(letter)
            continue
        first = await dispositions.claim(letter.stored, by)
        async with dispositions.finishing(letter.stored, by) as claim:
            if claim is None:
                done.before.append(letter)
            elif not first and await _is_there(letter, claim, kafka):
                done.found.append(letter)
            else:
                await kafka.publish(letter.stored)
                done.decided.append(letter)
    return done


async def _is_there(letter: Letter, claim: Disposition, kafka: Replay) -> bool:
    return await kafka.was_published(letter.stored, claim.decided_at - _CLOCKS)


async def drop(letters: Sequence[Letter], dispositions: Dispositions, by: str, because: str) -> Done:
    """Mark the letters as those that nothing is to be done about; they stay in Kafka. CommandError as above."""
    done = Done()
    for letter in letters:
        dropped = letter.state is State.OPEN and await dispositions.drop(letter.stored, by, because)
        (done.decided if dropped else done.before).append(letter)
    return done
