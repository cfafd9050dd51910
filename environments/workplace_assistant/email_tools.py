"""The email tools and the company directory."""

from __future__ import annotations

from datetime import date

from gym_adapters import tool

from .tables import Office, Row
from .times import paged, parsed_time

__all__ = ["NOW", "DirectoryTools", "EmailTools"]

NOW = "2023-11-30 23:59:00"


class DirectoryTools:
    """Looking up colleagues."""

    office: Office

    @tool
    async def company_directory_find_email_address(self, name: str = "") -> dict[str, object]:
        """Finds all email addresses that hold a name, in upper or lower case.

        Args:
            name: A name or a part of one.
        """
        if not name:
            return {"output": "Name not provided."}
        wanted = name.lower()
        return {"output": [a for a in self.office.database.directory if wanted in a.lower()]}


class EmailTools:
    """Reading, searching, sending and deleting emails."""

    office: Office

    @tool
    async def email_get_email_information_by_id(
        self, email_id: str, field: str
    ) -> dict[str, object]:
        """Returns one field of an email.

        Args:
            email_id: The email's id.
            field: One of email_id, inbox/outbox, sender/recipient, subject, sent_datetime, body.
        """
        if not email_id:
            return {"output": "Email ID not provided."}
        if not field:
            return {"output": "Field not provided."}
        email = self.office.emails.get(email_id)
        if email is None:
            return {"output": "Email not found."}
        if field not in email:
            return {"output": f"Field '{field}' not found. Available fields: {', '.join(email)}"}
        return {"output": {field: email[field]}}

    @tool
    async def email_search_emails(
        self,
        query: str = "",
        date_min: str | None = None,
        date_max: str | None = None,
        page: int = 1,
        page_size: int = 5,
    ) -> dict[str, object]:
        """Searches the emails that hold every word of a query; the latest come first.

        Args:
            query: Words to look for in subject, body and sender or recipient.
            date_min: First day, YYYY-MM-DD.
            date_max: Last day, YYYY-MM-DD.
            page: Which page of results.
            page_size: Emails a page.
        """
        bounds: list[date | None] = []
        for name, text in (("date_min", date_min), ("date_max", date_max)):
            moment = parsed_time(text) if text else None
            if text and moment is None:
                return {"output": f"Error searching emails: {name} is not a date: {text}"}
            bounds.append(moment.date() if moment else None)
        words = query.lower().split()
        found = [email for email in self.office.emails if _matches(email, words, *bounds)]
        found.sort(key=lambda email: str(email["sent_datetime"]), reverse=True)
        return {"output": paged(found, "emails", page, page_size)}

    @tool
    async def email_send_email(self, recipient: str, subject: str, body: str) -> dict[str, object]:
        """Sends an email.

        Args:
            recipient: Email address to send it to.
            subject: Subject line.
            body: Text of the email.
        """
        return {"output": self._send(recipient, subject, body)}

    @tool
    async def email_delete_email(self, email_id: str) -> dict[str, object]:
        """Deletes an email.

        Args:
            email_id: The email's id.
        """
        if not email_id:
            return {"output": "Email ID not provided."}
        if email_id not in self.office.emails:
            return {"output": "Email not found."}
        self.office.emails.delete(email_id)
        return {"output": "Email deleted successfully."}

    @tool
    async def email_forward_email(self, email_id: str, recipient: str) -> dict[str, object]:
        """Forwards an email.

        Args:
            email_id: Id of the email to forward.
            recipient: Email address to send it to.
        """
        if not email_id or not recipient:
            return {"output": "Email ID or recipient not provided."}
        if not _is_address(recipient):
            return {"output": "Invalid recipient email address."}
        email = self.office.emails.get(email_id)
        if email is None:
            return {"output": "Email not found."}
        sent = self._send(recipient, f"FW: {email['subject']}", str(email["body"] or ""))
        done = sent == "Email sent successfully."
        return {"output": "Email forwarded successfully." if done else sent}

    @tool
    async def email_reply_email(self, email_id: str, body: str) -> dict[str, object]:
        """Replies to an email.

        Args:
            email_id: Id of the email to reply to.
            body: Text of the reply.
        """
        if not email_id or not body:
            return {"output": "Email ID or body not provided."}
        email = self.office.emails.get(email_id)
        if email is None:
            return {"output": "Email not found."}
        sent = self._send(str(email["sender/recipient"]), f"RE: {email['subject']}", body)
        done = sent == "Email sent successfully."
        return {"output": "Email replied successfully." if done else sent}

    def _send(self, recipient: str, subject: str, body: str) -> str:
        if not recipient or not subject or not body:
            return "Recipient, subject, or body not provided."
        if not _is_address(recipient):
            return "Invalid recipient email address."
        emails = self.office.emails
        # Unlike other ids, those of sent emails are not padded: recorded data has it so.
        last = emails.last_id()
        row: Row = {
            "email_id": str(int(last) + 1) if last is not None else "1",
            "inbox/outbox": "outbox",
            "sender/recipient": recipient.lower(),
            "subject": subject,
            "sent_datetime": NOW,
            "body": body,
        }
        emails.insert(row)
        return "Email sent successfully."


def _is_address(text: str) -> bool:
    return "@" in text and "." in text


def _matches(email: Row, words: list[str], first: date | None, last: date | None) -> bool:
    text = f"{email['subject']} {email['body']} {email['sender/recipient']}".lower()
    if not all(word in text for word in words):
        return False
    if first is None and last is None:
        return True
    sent = parsed_time(str(email["sent_datetime"]))
    if sent is None:
        return False
    return (first is None or sent.date() >= first) and (last is None or sent.date() <= last)
