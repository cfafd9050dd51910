"""The analytics tools, over the visits to the company's website."""

from __future__ import annotations

from collections.abc import Callable

from gym_adapters import tool

from .tables import Office, Row

__all__ = ["PLOT_TYPES", "PLOT_VALUES", "AnalyticsTools"]

PLOT_VALUES = (
    "total_visits",
    "session_duration_seconds",
    "user_engaged",
    "visits_direct",
    "visits_referral",
    "visits_search_engine",
    "visits_social_media",
)
PLOT_TYPES = ("bar", "line", "scatter", "histogram")


class AnalyticsTools:
    """Counting and plotting visits."""

    office: Office

    @tool
    async def analytics_get_visitor_information_by_id(self, visitor_id: str) -> dict[str, object]:
        """Returns the visits of one visitor.

        Args:
            visitor_id: The visitor's id.
        """
        if not visitor_id:
            return {"output": "Visitor ID not provided."}
        visits = [
            dict(row) for row in self.office.database.visits if row["visitor_id"] == visitor_id
        ]
        return {"output": visits or "Visitor not found."}

    @tool
    async def analytics_create_plot(
        self, time_min: str, time_max: str, value_to_plot: str, plot_type: str
    ) -> dict[str, object]:
        """Plots a value over a range of days, and returns the plot's file.

        Args:
            time_min: First day, YYYY-MM-DD.
            time_max: Last day, YYYY-MM-DD.
            value_to_plot: total_visits, session_duration_seconds, user_engaged, visits_direct,
                visits_referral, visits_search_engine or visits_social_media.
            plot_type: bar, line, scatter or histogram.
        """
        if not time_min:
            return {"output": "Start date not provided."}
        if not time_max:
            return {"output": "End date not provided."}
        if value_to_plot not in PLOT_VALUES:
            choices = ", ".join(f"'{value}'" for value in PLOT_VALUES)
            return {"output": f"Value to plot must be one of {choices}"}
        if plot_type not in PLOT_TYPES:
            return {"output": "Plot type must be one of 'bar', 'line', 'scatter', or 'histogram'"}
        path = f"plots/{time_min}_{time_max}_{value_to_plot}_{plot_type}.png"
        self.office.plots.append(path)
        return {"output": path}

    @tool
    async def analytics_total_visits_count(
        self, time_min: str | None = None, time_max: str | None = None
    ) -> dict[str, object]:
        """Returns the number of visits of each day.

        Args:
            time_min: First day, YYYY-MM-DD.
            time_max: Last day, YYYY-MM-DD.
        """
        return {"output": self._daily(time_min, time_max, lambda visit: 1)}

    @tool
    async def analytics_engaged_users_count(
        self, time_min: str | None = None, time_max: str | None = None
    ) -> dict[str, object]:
        """Returns the number of engaged visitors of each day.

        Args:
            time_min: First day, YYYY-MM-DD.
            time_max: Last day, YYYY-MM-DD.
        """
        return {"output": self._daily(time_min, time_max, lambda v: int(bool(v["user_engaged"])))}

    @tool
    async def analytics_traffic_source_count(
        self,
        time_min: str | None = None,
        time_max: str | None = None,
        traffic_source: str | None = None,
    ) -> dict[str, object]:
        """Returns the number of visits of each day that came from one source.

        Args:
            time_min: First day, YYYY-MM-DD.
            time_max: Last day, YYYY-MM-DD.
            traffic_source: direct, referral, search engine or social media; by default all count.
        """

        def from_source(visit: Row) -> int:
            return int(not traffic_source or visit["traffic_source"] == traffic_source)

        return {"output": self._daily(time_min, time_max, from_source)}

    @tool
    async def analytics_get_average_session_duration(
        self, time_min: str | None = None, time_max: str | None = None
    ) -> dict[str, object]:
        """Returns the average length of each day's visits, in seconds.

        Args:
            time_min: First day, YYYY-MM-DD.
            time_max: Last day, YYYY-MM-DD.
        """
        visits = self._daily(time_min, time_max, lambda visit: 1)
        seconds = self._daily(
            time_min, time_max, lambda visit: int(str(visit["session_duration_seconds"]))
        )
        return {"output": {day: seconds[day] / count for day, count in visits.items()}}

    def _daily(
        self, first: str | None, last: str | None, value: Callable[[Row], int]
    ) -> dict[str, int]:
        totals: dict[str, int] = {}
        for visit in self.office.database.visits:
            day = str(visit["date_of_visit"])
            if (first and day < first) or (last and day > last):
                continue
            totals[day] = totals.get(day, 0) + value(visit)
        return dict(sorted(totals.items()))
