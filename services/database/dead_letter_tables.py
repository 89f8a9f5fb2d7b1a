"""What operators decided about dead letters; the letters themselves stay in Kafka."""

from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, Table, Text

from services.database.metadata import Time, metadata

dead_letter_dispositions = Table(
    "dead_letter_dispositions",
    metadata,
    Column("topic", Text, key="topic", nullable=False),
    Column("offset", BigInteger, key="offset", nullable=False),
    # A topic that is made anew begins at offset 0 again, and its letters are others.
    Column("writtenAt", Time, key="written_at", nullable=False),
    Column("disposition", Text, key="disposition", nullable=False),
    Column("decidedBy", Text, key="decided_by", nullable=False),
    Column("decidedAt", Time, key="decided_at", nullable=False),
    Column("because", Text, key="because"),
    PrimaryKeyConstraint("topic", "offset", "written_at"),
)
