"""Writes the dashboards that Grafana is provisioned with: `python -m deploy.grafana.generate`."""

from pathlib import Path

from deploy.grafana.boards import Board, document
from deploy.grafana.dispatcher import DISPATCHER
from deploy.grafana.gateway import GATEWAY
from deploy.grafana.overview import OVERVIEW
from deploy.grafana.persona import PERSONA
from deploy.grafana.tracker import TRACKER

DIRECTORY = Path(__file__).parent / "dashboards"
BOARDS: tuple[Board, ...] = (OVERVIEW, GATEWAY, DISPATCHER, TRACKER, PERSONA)


def main() -> None:
    """Write every dashboard."""
    for board in BOARDS:
        (DIRECTORY / f"{board.uid}.json").write_text(document(board))


if __name__ == "__main__":
    main()
