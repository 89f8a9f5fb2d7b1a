"""Slots are shared out in rotation: no persona's queue comes before another's."""

from dataclasses import dataclass, field

from services.webhook_dispatcher.slots import SHARE, Slots, Turn


@dataclass(eq=False, slots=True)
class Persona:
    name: str
    slots: Slots
    begun: list[str]
    waiting: int = 0
    limit: int = 1_000
    running: int = field(default=0)

    def offer(self) -> Turn:
        if not self.waiting or self.running >= self.limit:
            return Turn.NOT_NOW
        if not self.slots.allows(self.running):
            return Turn.BEYOND_SHARE
        self.slots.take()
        self.waiting -= 1
        self.running += 1
        self.begun.append(self.name)
        return Turn.TAKEN

    def arrive(self, calls: int) -> None:
        self.waiting += calls
        self.slots.want(self)

    def end_one(self) -> None:
        self.running -= 1
        self.slots.give_back()
        self.slots.want(self)


def test_one_persona_alone_leaves_room_for_others() -> None:
    slots, begun = Slots(90), list[str]()
    alone = Persona("alone", slots, begun)
    alone.arrive(500)
    assert alone.running == 90 * SHARE // (SHARE + 1)
    late = Persona("late", slots, begun)
    late.arrive(5)
    assert late.running == 5


def test_a_few_slots_are_all_used() -> None:
    for most in (1, 5):
        slots = Slots(most)
        alone = Persona("alone", slots, [])
        alone.arrive(100)
        assert alone.running == most


def test_a_long_queue_does_not_come_before_a_short_one() -> None:
    slots, begun = Slots(4), list[str]()
    flood, small = Persona("flood", slots, begun), Persona("small", slots, begun)
    flood.arrive(1_000)
    small.arrive(3)
    begun.clear()
    for _ in range(6):
        flood.end_one()
    assert begun.count("small") == 3


def test_who_waits_at_its_own_limit_holds_up_nobody() -> None:
    slots, begun = Slots(10), list[str]()
    slow, quick = Persona("slow", slots, begun, limit=1), Persona("quick", slots, begun)
    slow.arrive(1_000)
    quick.arrive(20)
    assert (slow.running, quick.running) == (1, 8)
    for _ in range(12):
        quick.end_one()
    assert (slow.running, quick.waiting) == (1, 0)
    slow.end_one()
    assert (slow.running, slow.waiting) == (1, 998)
