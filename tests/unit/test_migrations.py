"""What migrations may do beside processes of the release before."""

import ast
from pathlib import Path

from services.database.migrate import MIGRATIONS

TAKES_AWAY = {"drop_table", "drop_column", "rename_table", "alter_column"}
KNOWN = {"0002", "0003"}
"""docs/upgrading.md says of them what has to stop meanwhile."""


def takes_away(path: Path) -> bool:
    """Tell whether an upgrade calls what processes of the release before could stumble over."""
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    (upgrade,) = (function for function in functions if function.name == "upgrade")
    called = {node.attr for node in ast.walk(upgrade) if isinstance(node, ast.Attribute)}
    return not TAKES_AWAY.isdisjoint(called)


def test_a_column_goes_in_the_release_after_the_last_one_that_reads_it() -> None:
    migrations = sorted((MIGRATIONS / "versions").glob("[0-9]*.py"))
    assert {path.name.partition("_")[0] for path in migrations if takes_away(path)} == KNOWN
