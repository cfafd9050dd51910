"""Requests to the assistant, each with the calls that fulfil it, over the generated office."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import orjson

from .analytics_tools import PLOT_TYPES
from .generated_office import MEETINGS, TODAY
from .project_tools import LISTS
from .tables import Database, Row

__all__ = ["SYSTEM_PROMPT", "Request", "requests"]

SYSTEM_PROMPT = (
    "You are Sam's office assistant. Today is Thursday, 2023-11-30, and it is 23:59:00. "
    "Meetings start at 9am at the earliest and end by 6pm. Do what is asked with the tools, "
    "and change nothing else."
)


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks, and the calls that do it.

    Attributes:
        category: The group of tools it is about.
        text: What the user says.
        lookups: Calls that find out what the others need; they change nothing.
        calls: Calls that must have been made, by their effect.
    """

    category: str
    text: str
    lookups: tuple[dict[str, str], ...]
    calls: tuple[dict[str, str], ...]


Maker = Callable[[random.Random, Database, int], Request | None]


def requests(database: Database, rng: random.Random, difficulty: float) -> Iterator[Request]:
    """Requests without end.

    Args:
        database: The office they are about.
        rng: Where chance comes from.
        difficulty: At 0 one change whose subject is easily found; towards 1 more requests that must
            be applied to several rows, or that join two groups of tools.
    """
    while True:
        makers = MANY if rng.random() < difficulty else ONE
        # How many rows a request over several may touch.
        most = 2 + round(4 * difficulty)
        made = rng.choice(makers)(rng, database, most)
        if made is not None:
            yield made


def call(name: str, /, **arguments: object) -> dict[str, str]:
    """A tool call as rows hold it."""
    return {"name": name, "arguments": orjson.dumps(arguments).decode()}


def _first_name(address: str) -> str:
    return address.partition(".")[0].title()


def _reply(rng: random.Random, database: Database, most: int) -> Request:
    email = rng.choice(list(database.emails.values()))
    same = [
        other
        for other in database.emails.values()
        if (other["subject"], other["sender/recipient"])
        == (email["subject"], email["sender/recipient"])
    ]
    last = max(same, key=lambda row: str(row["sent_datetime"]))
    sender = str(email["sender/recipient"])
    body = rng.choice(("Thanks, I will look at it tomorrow.", "Agreed, go ahead.", "Let us talk."))
    return Request(
        "email",
        f"Reply to {_first_name(sender)}'s last email about '{email['subject']}' with '{body}'",
        (call("email_search_emails", query=f"{email['subject']} {sender}"),),
        (call("email_reply_email", email_id=last["email_id"], body=body),),
    )


def _send(rng: random.Random, database: Database, most: int) -> Request:
    person, topic = rng.choice(database.directory), rng.choice(MEETINGS)
    name, body = _first_name(person), f"Could you bring numbers to the {topic}?"
    return Request(
        "email",
        f"Send {name} an email with the subject 'Next {topic}' that says '{body}'",
        (call("company_directory_find_email_address", name=name),),
        (call("email_send_email", recipient=person, subject=f"Next {topic}", body=body),),
    )


def _cancel(rng: random.Random, database: Database, most: int) -> Request | None:
    person = rng.choice(database.directory)
    coming = _events_of(database, person)
    if not coming:
        return None
    name = _first_name(person)
    return Request(
        "calendar",
        f"Cancel my next meeting with {name}",
        (call("calendar_search_events", query=person, time_min="2023-12-01 00:00:00"),),
        (call("calendar_delete_event", event_id=coming[0]["event_id"]),),
    )


def _rename(rng: random.Random, database: Database, most: int) -> Request | None:
    day = (TODAY + timedelta(days=rng.randrange(1, 14))).date()
    events = [e for e in database.events.values() if str(e["event_start"]).startswith(str(day))]
    if not events:
        return None
    which, event = rng.choice((("first", events[0]), ("last", events[-1])))
    new_name = rng.choice(MEETINGS)
    return Request(
        "calendar",
        f"Change the name of the {which} event on {day:%B} {day.day} to {new_name}",
        (
            call(
                "calendar_search_events",
                time_min=f"{day} 00:00:00",
                time_max=f"{day} 23:59:00",
                page_size=20,
            ),
        ),
        (
            call(
                "calendar_update_event",
                event_id=event["event_id"],
                field="event_name",
                new_value=new_name,
            ),
        ),
    )


def _plot(rng: random.Random, database: Database, most: int) -> Request:
    since = (TODAY - timedelta(days=rng.randrange(2, 50))).date()
    kind = rng.choice(PLOT_TYPES[:3])
    value, words = rng.choice(
        (("total_visits", "total visits"), ("session_duration_seconds", "session duration"))
    )
    return Request(
        "analytics",
        f"Make a {kind} chart of {words} since {since:%B} {since.day}",
        (),
        (
            call(
                "analytics_create_plot",
                time_min=str(since),
                time_max=str(TODAY.date()),
                value_to_plot=value,
                plot_type=kind,
            ),
        ),
    )


def _forget_customer(rng: random.Random, database: Database, most: int) -> Request:
    customer = rng.choice(list(database.customers.values()))
    name = customer["customer_name"]
    return Request(
        "customer_relationship_manager",
        f"Delete {name} from the CRM",
        (call("customer_relationship_manager_search_customers", customer_name=name),),
        (
            call(
                "customer_relationship_manager_delete_customer",
                customer_id=customer["customer_id"],
            ),
        ),
    )


def _new_task(rng: random.Random, database: Database, most: int) -> Request:
    person, topic = rng.choice(database.directory), rng.choice(MEETINGS)
    due = (TODAY + timedelta(days=rng.randrange(1, 20))).date()
    task_name = f"Prepare slides for the {topic}"
    return Request(
        "project_management",
        f"Add a task '{task_name}' for {_first_name(person)} to the Backlog of the Design board, "
        f"due on {due}",
        (call("company_directory_find_email_address", name=_first_name(person)),),
        (
            call(
                "project_management_create_task",
                task_name=task_name,
                assigned_to_email=person,
                list_name="Backlog",
                due_date=str(due),
                board="Design",
            ),
        ),
    )


def _reassign_leads(rng: random.Random, database: Database, most: int) -> Request | None:
    sellers = sorted({str(c["assigned_to_email"]) for c in database.customers.values()})
    source, target = rng.sample(sellers, 2)
    product = rng.choice(sorted({str(c["product_interest"]) for c in database.customers.values()}))
    found = [
        customer
        for customer in database.customers.values()
        if (customer["assigned_to_email"], customer["product_interest"]) == (source, product)
    ]
    if not 1 < len(found) <= most:
        return None
    return Request(
        "customer_relationship_manager",
        f"{_first_name(target)} is taking over all of {_first_name(source)}'s customers that are "
        f"interested in {product.lower()}. Reassign them in the CRM",
        (
            call("company_directory_find_email_address", name=_first_name(target)),
            call(
                "customer_relationship_manager_search_customers",
                assigned_to_email=source,
                product_interest=product,
                page_size=20,
            ),
        ),
        tuple(
            call(
                "customer_relationship_manager_update_customer",
                customer_id=customer["customer_id"],
                field="assigned_to_email",
                new_value=target,
            )
            for customer in found
        ),
    )


def _move_tasks(rng: random.Random, database: Database, most: int) -> Request | None:
    person, (source, target) = rng.choice(database.directory), rng.sample(LISTS, 2)
    found = [
        task
        for task in database.tasks.values()
        if (task["assigned_to_email"], task["list_name"]) == (person, source)
    ]
    if not 1 < len(found) <= most:
        return None
    return Request(
        "project_management",
        f"Move all of {_first_name(person)}'s tasks that are in '{source}' to '{target}'",
        (
            call("company_directory_find_email_address", name=_first_name(person)),
            call("project_management_search_tasks", assigned_to_email=person, list_name=source),
        ),
        tuple(
            call(
                "project_management_update_task",
                task_id=task["task_id"],
                field="list_name",
                new_value=target,
            )
            for task in found
        ),
    )


def _cancel_and_tell(rng: random.Random, database: Database, most: int) -> Request | None:
    person = rng.choice(database.directory)
    coming = _events_of(database, person)
    if not 1 < len(coming) <= most:
        return None
    body = "I have to call off our meetings."
    return Request(
        "multi_domain",
        f"Cancel all my coming meetings with {_first_name(person)}, then send them an email with "
        f"the subject 'Our meetings' that says '{body}'",
        (call("calendar_search_events", query=person, time_min="2023-12-01", page_size=20),),
        (
            *(call("calendar_delete_event", event_id=event["event_id"]) for event in coming),
            call("email_send_email", recipient=person, subject="Our meetings", body=body),
        ),
    )


def _events_of(database: Database, person: str) -> Sequence[Row]:
    return sorted(
        (
            event
            for event in database.events.values()
            if event["participant_email"] == person and str(event["event_start"]) >= "2023-12-01"
        ),
        key=lambda event: str(event["event_start"]),
    )


ONE: tuple[Maker, ...] = (_reply, _send, _cancel, _rename, _plot, _forget_customer, _new_task)
MANY: tuple[Maker, ...] = (_reassign_leads, _move_tasks, _cancel_and_tell)
