"""Forms of queries that several dashboards ask in."""

from deploy.grafana.boards import Query

RATE = "[$__rate_interval]"


def rate(counter: str, legend: str, *, by: str = "", where: str = "") -> Query:
    """Return how often a counter counted a second, by these labels."""
    return Query(f"{_sum(by)}(rate({counter}{_where(where)}{RATE}))", legend)


def quantiles(
    histogram: str, *, by: str = "", where: str = "", of: tuple[float, ...] = (0.5, 0.95, 0.99)
) -> list[Query]:
    """Return these quantiles of a histogram, by these labels."""
    labels = f"le, {by}" if by else "le"
    name = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(",")) + " " if by else ""
    return [
        Query(
            f"histogram_quantile({q}, {_sum(labels)}(rate({histogram}_bucket{_where(where)}{RATE})))",
            f"{name}p{q * 100:g}",
            exemplars=True,
        )
        for q in of
    ]


def mean(histogram: str, legend: str) -> Query:
    """Return the mean of a histogram."""
    return Query(f"sum(rate({histogram}_sum{RATE})) / sum(rate({histogram}_count{RATE}))", legend)


def _sum(by: str) -> str:
    return f"sum by ({by}) " if by else "sum"


def _where(where: str) -> str:
    return f"{{{where}}}" if where else ""
