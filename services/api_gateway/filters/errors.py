"""The one error of this package: a filter that does not say what it could mean."""

from collections.abc import Iterable


class InvalidFilter(Exception):
    """The text is no filter, or asks for what there is not. `explanation` is a whole sentence.

    `position` is how many characters of the text stand before the place, None where the filter was not written as text;
    `allowed` what could stand there, where that is a list.
    """

    def __init__(self, explanation: str, position: int | None, allowed: Iterable[str] = ()) -> None:
        super().__init__(explanation)
        self.explanation = explanation
        self.position = position
        self.allowed = tuple(allowed)
