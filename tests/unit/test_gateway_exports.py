"""Whether an export is compressed."""

import pytest

from services.api_gateway.exports import takes_gzip


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("gzip", True), ("deflate, GZIP", True), ("*", True), ("x-gzip", True), ("gzip; q=0.001", True), ("", False),
        ("identity", False), ("gzip;q=0", False), ("gzip;q=0.0, *", False), ("br;q=1, *;q=0", False),
    ],
)  # fmt: skip
def test_gzip_is_taken_as_the_header_says(header: str, taken: bool) -> None:
    assert takes_gzip(header) is taken
