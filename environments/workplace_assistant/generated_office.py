"""An office of our own making: the database that attempts start from when none is given."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache

from .customer_tools import PRODUCTS, STATUSES
from .project_tools import BOARDS, LISTS
from .tables import Database, Row

__all__ = ["TODAY", "generated_database"]

TODAY = datetime(2023, 11, 30)  # noqa: DTZ001 - the office keeps local time
DOMAIN = "ferngate.com"
PEOPLE = [
    "ines.moller",
    "tomas.vidal",
    "hana.kimura",
    "oluwaseun.ade",
    "greta.lindqvist",
    "pavel.novak",
    "amara.diallo",
    "jonas.weber",
    "leila.haddad",
    "mateus.rocha",
    "freya.olsen",
    "dario.conti",
]
FIRST = [
    "Robin",
    "Sasha",
    "Jules",
    "Noor",
    "Ari",
    "Kit",
    "Remy",
    "Toni",
    "Lou",
    "Sky",
    "Dana",
    "Val",
]
LAST = [
    "Abara",
    "Bianchi",
    "Castillo",
    "Dufour",
    "Eriksen",
    "Fontaine",
    "Gallo",
    "Horvat",
    "Ito",
    "Janssen",
    "Kowal",
    "Lund",
]
COMPANIES = ["alderworks", "bluekiln", "corvine", "delphia", "eastmoor", "foxglade"]
MEETINGS = (
    "budget review",
    "design critique",
    "hiring sync",
    "incident review",
    "roadmap planning",
    "sales handover",
    "security briefing",
    "sprint demo",
    "team lunch",
    "weekly check-in",
)
CHORES = {
    "Back end": (
        "Cache the price lookup",
        "Index the orders table",
        "Log slow queries",
        "Rotate the signing keys",
        "Split the billing service",
    ),
    "Front end": (
        "Align the footer links",
        "Lazy-load the gallery",
        "Localise the date picker",
        "Repair the mobile menu",
        "Show totals in the basket",
    ),
    "Design": (
        "Draw icons for alerts",
        "Refresh the colour palette",
        "Sketch the onboarding flow",
        "Test the checkout layout",
        "Write a style guide",
    ),
}
SOURCES = ("direct", "referral", "search engine", "social media")
NOTES = ("Asked for a quote.", "Had a call.", "Met at a fair.", "Saw the demo.", "Wants a trial.")


@lru_cache(maxsize=8)
def generated_database(seed: int = 0) -> Database:
    """The office of `seed`: 12 colleagues, 160 emails, 90 events, 75 tasks, 72 customers."""
    rng = random.Random(f"workplace_assistant:{seed}")
    directory = [f"{name}@{DOMAIN}" for name in PEOPLE]
    return Database(
        emails=_numbered("email_id", _emails(rng, directory, 160)),
        events=_numbered("event_id", _events(rng, directory, 90)),
        tasks=_numbered("task_id", _tasks(rng, directory)),
        customers=_numbered("customer_id", _customers(rng, directory[:5], 72)),
        visits=_visits(rng, 400),
        directory=directory,
    )


def _numbered(key: str, rows: Sequence[Row]) -> dict[str, Row]:
    return {f"{number:08d}": {key: f"{number:08d}", **row} for number, row in enumerate(rows)}


def _moment(day: datetime, minutes: int) -> str:
    return str(day + timedelta(minutes=minutes))


def _emails(rng: random.Random, directory: Sequence[str], count: int) -> list[Row]:
    topics = [*MEETINGS, *(name for names in CHORES.values() for name in names)]
    moments = sorted(rng.sample(range(60 * 24 * 60), count))
    rows: list[Row] = []
    for moment in moments:
        sender, topic = rng.choice(directory), rng.choice(topics)
        name = sender.partition(".")[0].title()
        verb = rng.choice(("is on track", "needs a decision", "is late", "is done"))
        rows.append(
            {
                "inbox/outbox": "inbox",
                "sender/recipient": sender,
                "subject": f"{rng.choice(('Update', 'Question', 'Notes'))} on {topic}",
                "sent_datetime": _moment(TODAY - timedelta(days=61), moment),
                "body": f"Hi Sam,\n\n{topic} {verb}. More when we talk.\n\n{name}",
            }
        )
    return rows


def _events(rng: random.Random, directory: Sequence[str], count: int) -> list[Row]:
    slots = rng.sample([(day, half) for day in range(-30, 15) for half in range(17)], count)
    return [
        {
            "event_name": rng.choice(MEETINGS),
            "participant_email": rng.choice(directory),
            "event_start": _moment(TODAY + timedelta(days=day), 9 * 60 + 30 * half),
            "duration": "30",
        }
        for day, half in sorted(slots)
    ]


def _tasks(rng: random.Random, directory: Sequence[str]) -> list[Row]:
    rows: list[Row] = [
        {
            "task_name": name,
            "assigned_to_email": rng.choice(directory),
            "list_name": rng.choice(LISTS),
            "due_date": (TODAY + timedelta(days=rng.randrange(-5, 20))).date().isoformat(),
            "board": board,
        }
        for board in BOARDS
        for name in CHORES[board]
        for _ in range(5)
    ]
    rng.shuffle(rows)
    # Every colleague has a task: a task can be given only to somebody who has one.
    for row, person in zip(rows, directory, strict=False):
        rows[rows.index(row)] = {**row, "assigned_to_email": person}
    return rows


def _customers(rng: random.Random, sellers: Sequence[str], count: int) -> list[Row]:
    names = rng.sample([f"{first} {last}" for first in FIRST for last in LAST], count)
    rows: list[Row] = []
    for name in names:
        address = f"{name.lower().replace(' ', '.')}@{rng.choice(COMPANIES)}.com"
        contact = TODAY - timedelta(days=rng.randrange(60))
        follow_up = TODAY + timedelta(days=rng.randrange(1, 30))
        phone = f"{rng.randrange(200, 999)}-555-{rng.randrange(100, 199):04d}"
        rows.append(
            {
                "assigned_to_email": rng.choice(sellers),
                "customer_name": name,
                "customer_email": address,
                "customer_phone": rng.choice((phone, None)),
                "last_contact_date": f"{contact.date()} 23:59:00",
                "product_interest": rng.choice(PRODUCTS),
                "status": rng.choice(STATUSES),
                "follow_up_by": f"{follow_up.date()} 23:59:00",
                "notes": f"{contact.date()}: {rng.choice(NOTES)}",
            }
        )
    return rows


def _visits(rng: random.Random, count: int) -> list[Row]:
    return [
        {
            "date_of_visit": (TODAY - timedelta(days=rng.randrange(60))).date().isoformat(),
            "visitor_id": f"{rng.randrange(10_000):04d}",
            "page_views": str(rng.randrange(1, 20)),
            "session_duration_seconds": str(rng.randrange(100)),
            "traffic_source": rng.choice(SOURCES),
            "user_engaged": rng.random() < 0.5,
        }
        for _ in range(count)
    ]
