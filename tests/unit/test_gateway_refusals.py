"""A flood of refusals is a few entries."""

from services.api_gateway.refusals import MOST, Refusals, Refused, Repeats
from services.runtime.pseudonyms import Pseudonyms

ADA = Refused("user", "ada", "persona.put")


def test_the_first_of_each_actor_and_action_is_written_and_the_others_are_counted() -> None:
    refusals = Refusals()
    assert [refusals.is_first(ADA) for _ in range(5)] == [True, False, False, False, False]
    assert refusals.is_first(ADA._replace(action="cleanup.start"))
    assert refusals.is_first(ADA._replace(actor="bob"))
    assert refusals.end_period() == [Repeats(ADA, 4)]
    assert refusals.end_period() == []
    assert refusals.is_first(ADA), "a new period begins anew"


def test_however_many_come_the_entries_are_bounded() -> None:
    refusals = Refusals()
    everyone = [ADA._replace(actor=f"user-{n}") for n in range(10 * MOST)]
    written = sum(refusals.is_first(refused) for _ in range(3) for refused in everyone)
    repeats = refusals.end_period()
    assert written == MOST
    assert len(repeats) == MOST + 1
    assert written + sum(each.count for each in repeats) == 30 * MOST, "none is lost from the count"
    assert [each for each in repeats if each.of is None] == [Repeats(None, 27 * MOST)]


def test_names_need_the_key() -> None:
    names = Pseudonyms(b"k" * 32)
    assert names.of("ada") == Pseudonyms(b"k" * 32).of("ada") != names.of("bob")
    assert names.of("ada") != Pseudonyms(b"l" * 32).of("ada")
    assert len(names.of("ada")) == 32
    assert Pseudonyms(None).of("ada") == Pseudonyms(None).of("bob") == "unnamed"
