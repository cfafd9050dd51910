"""The calendar tools."""

from __future__ import annotations

from gym_adapters import tool

from .tables import COLUMNS, Office, Row
from .times import paged, parsed_time

__all__ = ["CalendarTools"]

FIELDS = COLUMNS["calendar_events"]
BAD_ID = "Invalid event ID format. Expected 8-digit ID."


class CalendarTools:
    """Reading, searching, creating, changing and deleting events."""

    office: Office

    @tool
    async def calendar_get_event_information_by_id(
        self, event_id: str, field: str
    ) -> dict[str, object]:
        """Returns one field of an event.

        Args:
            event_id: The event's id, 8 digits.
            field: One of event_id, event_name, participant_email, event_start, duration.
        """
        if not event_id:
            return {"output": "Event ID not provided."}
        if not field:
            return {"output": "Field not provided."}
        if not _is_id(event_id):
            return {"output": BAD_ID}
        if field not in FIELDS:
            return {"output": f"Invalid field. Available fields are: {', '.join(FIELDS)}"}
        event = self.office.events.get(event_id)
        return {"output": {field: event[field]} if event else "Event not found."}

    @tool
    async def calendar_search_events(
        self,
        query: str = "",
        time_min: str | None = None,
        time_max: str | None = None,
        page: int = 1,
        page_size: int = 5,
    ) -> dict[str, object]:
        """Searches events by name and participant; the latest come first.

        Args:
            query: Text to look for in name and participant.
            time_min: Earliest start, YYYY-MM-DD HH:MM:SS.
            time_max: Latest start, YYYY-MM-DD HH:MM:SS.
            page: Which page of results.
            page_size: Events a page.
        """
        for name, text in (("time_min", time_min), ("time_max", time_max)):
            if text and parsed_time(text) is None:
                return {"output": f"Invalid {name} format. Expected YYYY-MM-DD HH:MM:SS."}
        wanted = query.lower()
        found = [
            event
            for event in self.office.events
            if wanted in str(event["event_name"]).lower()
            or wanted in str(event["participant_email"]).lower()
        ]
        if time_min or time_max:
            found = [event for event in found if _within(event, time_min, time_max)]
        found.sort(key=_start, reverse=True)
        return {"output": paged(found, "events", page, page_size)}

    @tool
    async def calendar_create_event(
        self, event_name: str, participant_email: str, event_start: str, duration: str
    ) -> dict[str, object]:
        """Creates an event.

        Args:
            event_name: Its name.
            participant_email: Email address of who takes part.
            event_start: When it starts, YYYY-MM-DD HH:MM:SS.
            duration: How long it takes, in minutes.
        """
        given = (
            ("Event name", event_name),
            ("Participant email", participant_email),
            ("Event start", event_start),
            ("Event duration", duration),
        )
        for name, value in given:
            if not value:
                return {"output": f"{name} not provided."}
        problem = _problem("event_start", event_start) or _problem("duration", duration)
        if problem:
            return {"output": problem}
        last = self.office.events.last_id()
        event_id = f"{int(last) + 1 if last is not None else 0:08d}"
        self.office.events.insert(
            {
                "event_id": event_id,
                "event_name": event_name,
                "participant_email": participant_email.lower(),
                "event_start": event_start,
                "duration": duration,
            }
        )
        return {"output": event_id}

    @tool
    async def calendar_delete_event(self, event_id: str) -> dict[str, object]:
        """Deletes an event.

        Args:
            event_id: The event's id, 8 digits.
        """
        if not event_id:
            return {"output": "Event ID not provided."}
        if not _is_id(event_id):
            return {"output": BAD_ID}
        if event_id not in self.office.events:
            return {"output": "Event not found."}
        self.office.events.delete(event_id)
        return {"output": "Event deleted successfully."}

    @tool
    async def calendar_update_event(
        self, event_id: str, field: str, new_value: str
    ) -> dict[str, object]:
        """Changes one field of an event.

        Args:
            event_id: The event's id, 8 digits.
            field: One of event_name, participant_email, event_start, duration.
            new_value: What to set it to.
        """
        if not event_id or not field or not new_value:
            return {"output": "Event ID, field, or new value not provided."}
        if not _is_id(event_id):
            return {"output": BAD_ID}
        if field not in FIELDS[1:]:
            return {"output": f"Invalid field. Available fields are: {', '.join(FIELDS[1:])}"}
        problem = _problem(field, new_value)
        if problem:
            return {"output": problem}
        if event_id not in self.office.events:
            return {"output": "Event not found."}
        value = new_value.lower() if field == "participant_email" else new_value
        self.office.events.update(event_id, field, value)
        return {"output": "Event updated successfully."}


def _is_id(text: str) -> bool:
    return len(text) == 8 and text.isdigit()


def _problem(field: str, value: str) -> str | None:
    if field == "event_start" and parsed_time(value) is None:
        return "Invalid event_start format. Expected YYYY-MM-DD HH:MM:SS."
    if field == "duration":
        try:
            minutes = int(value)
        except ValueError:
            return "Invalid duration format. Expected a number of minutes."
        if minutes <= 0:
            return "Duration must be a positive number of minutes."
    return None


def _start(event: Row) -> str:
    moment = parsed_time(str(event["event_start"]))
    return moment.isoformat() if moment else ""


def _within(event: Row, earliest: str | None, latest: str | None) -> bool:
    start = parsed_time(str(event["event_start"]))
    low = parsed_time(earliest) if earliest else None
    high = parsed_time(latest) if latest else None
    return start is not None and (low is None or start >= low) and (high is None or start <= high)
