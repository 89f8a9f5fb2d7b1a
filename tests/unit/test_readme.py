"""The README says what is true of the code, and no document leads nowhere."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from services.api_gateway.settings import GatewaySettings
from services.runtime.secret_files import secret_names
from services.session_tracker.settings import SweeperSettings, TrackerSettings
from services.webhook_dispatcher.settings import DispatcherSettings
from tests.metrics_list import declared

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]
PROCESSES = {
    "gateway": GatewaySettings,
    "dispatcher": DispatcherSettings,
    "tracker": TrackerSettings,
    "sweeper": SweeperSettings,
}


def settings_rows() -> list[str]:
    """Return the rows of the README's table of settings: those of all processes first, then each one's own."""
    fields: dict[str, dict[str, FieldInfo]] = {}
    for process, settings in PROCESSES.items():
        for name, field in settings.model_fields.items():
            fields.setdefault(name, {})[process] = field
    ordered = sorted(
        fields.items(),
        key=lambda item: (len(item[1]) != len(PROCESSES), [*PROCESSES].index(min(item[1], key=[*PROCESSES].index))),
    )
    return [row(name, by_process) for name, by_process in ordered]


def row(name: str, by_process: dict[str, FieldInfo]) -> str:
    defaults = {process: shown_default(field) for process, field in by_process.items()}
    default = (
        next(iter(defaults.values()))
        if len(set(defaults.values())) == 1
        else ", ".join(f"{process} {value}" for process, value in defaults.items())
    )
    readers = "all" if len(by_process) == len(PROCESSES) else ", ".join(by_process)
    return f"| `{name.upper()}` | {default} | {readers} | {next(iter(by_process.values())).description} |"


def shown_default(field: FieldInfo) -> str:
    default = field.default
    if default is PydanticUndefined or default is None or default == "":
        return "none"
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_every_setting_is_in_the_table() -> None:
    table = re.search(r"\| variable \| default \| read by \| meaning \|\n\|(?:---\|){4}\n((?:\|.*\n)+)", README)
    assert table is not None, "The README has no table of settings."
    assert table.group(1).splitlines() == settings_rows(), "Replace the table by:\n" + "\n".join(settings_rows())


def test_every_secret_that_a_file_may_hold_is_named() -> None:
    (told,) = re.findall(r"^Secrets can come from files(.*?)set the same name", README, re.DOTALL | re.MULTILINE)
    secrets = {name.upper() for settings in PROCESSES.values() for name in secret_names(settings)}
    assert set(re.findall(r"`(\w+)`", told)) == secrets


def anchors(document: Path) -> set[str]:
    """Return what links may name after # in the document."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", document.read_text()):
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_every_decision_is_in_their_index() -> None:
    decisions = ROOT / "docs" / "decisions"
    heads = {path.name: path.read_text().partition("\n")[0] for path in decisions.glob("[0-9]*.md")}
    rows = re.findall(
        r"^\| (\d{4}) \| \[(.+)\]\((.+)\) \| .+\. \|$", (decisions / "README.md").read_text(), re.MULTILINE
    )
    assert [(path, f"# {number} · {title}") for number, title, path in rows] == sorted(heads.items())


@pytest.mark.parametrize("path", re.findall(r"`(services/[\w/]+\.py)`", README))
def test_every_file_it_names_exists(path: str) -> None:
    assert (ROOT / path).is_file()


def test_every_metric_it_names_is_declared() -> None:
    named = set(re.findall(r"`(chat_\w+?)(?:_total)?(?:\{[\w,=\"-]+\})?`", README))
    known = {metric.name for metric in declared()}
    assert named <= known, named - known
