"""What pydantic says of a value that it cannot use, in plain words. Pure."""

_PLAIN = (
    ("Value error, ", ""),
    ("a valid integer, unable to parse string as an integer", "a whole number"),
    ("a valid number, unable to parse string as a number", "a number"),
    ("a valid boolean, unable to interpret input", "true or false"),
    ("greater than or equal to", "at least"),
    ("less than or equal to", "at most"),
    ("Input should be", "it must be"),
)


def plain(complaint: str) -> str:
    """Return pydantic's complaint as what completes the line that begins with the name of the value."""
    for theirs, ours in _PLAIN:
        complaint = complaint.replace(theirs, ours)
    return complaint
