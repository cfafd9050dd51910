"""The customer relationship manager's tools."""

from __future__ import annotations

from gym_adapters import tool

from .tables import COLUMNS, Office, Row
from .times import paged

__all__ = ["PRODUCTS", "STATUSES", "CustomerTools"]

STATUSES = ("Qualified", "Won", "Lost", "Lead", "Proposal")
PRODUCTS = ("Software", "Hardware", "Services", "Consulting", "Training")
FIELDS = (
    "customer_name",
    "assigned_to_email",
    "customer_email",
    "customer_phone",
    "last_contact_date",
    "product_interest",
    "status",
    "notes",
    "follow_up_by",
)


class CustomerTools:
    """Searching, adding, changing and deleting customers."""

    office: Office

    @tool
    async def customer_relationship_manager_search_customers(
        self,
        customer_name: str | None = None,
        customer_email: str | None = None,
        product_interest: str | None = None,
        status: str | None = None,
        assigned_to_email: str | None = None,
        last_contact_date_min: str | None = None,
        last_contact_date_max: str | None = None,
        follow_up_by_min: str | None = None,
        follow_up_by_max: str | None = None,
        page: int = 1,
        page_size: int = 5,
    ) -> dict[str, object]:
        """Searches customers; all that is given must match.

        Args:
            customer_name: A part of the name.
            customer_email: A part of the email address.
            product_interest: A part of the product they are interested in.
            status: A part of the status.
            assigned_to_email: A part of the email address of who looks after them.
            last_contact_date_min: Last contacted on this day or later, YYYY-MM-DD.
            last_contact_date_max: Last contacted before this day, YYYY-MM-DD.
            follow_up_by_min: To be followed up on this day or later, YYYY-MM-DD.
            follow_up_by_max: To be followed up before this day, YYYY-MM-DD.
            page: Which page of results.
            page_size: Customers a page.
        """
        parts = {
            "customer_name": customer_name,
            "customer_email": customer_email,
            "product_interest": product_interest,
            "status": status,
            "assigned_to_email": assigned_to_email,
        }
        ranges = {
            "last_contact_date": (last_contact_date_min, last_contact_date_max),
            "follow_up_by": (follow_up_by_min, follow_up_by_max),
        }
        wanted = {column: text.lower() for column, text in parts.items() if text}
        if not wanted and not any(bound for pair in ranges.values() for bound in pair):
            text = "No search parameters provided. Please provide at least one parameter."
            return {"output": text}
        found = [row for row in self.office.customers if _matches(row, wanted, ranges)]
        return {"output": paged(found, "customers", page, page_size)}

    @tool
    async def customer_relationship_manager_update_customer(
        self, customer_id: str, field: str, new_value: str
    ) -> dict[str, object]:
        """Changes one field of a customer.

        Args:
            customer_id: The customer's id.
            field: One of customer_name, assigned_to_email, customer_email, customer_phone,
                last_contact_date, product_interest, status, notes, follow_up_by.
            new_value: What to set it to.
        """
        if not customer_id or not field or not new_value:
            return {"output": "Customer ID, field, or new value not provided."}
        if field == "status" and new_value not in STATUSES:
            return {"output": f"Status not valid. Please choose from: {_quoted(STATUSES)}"}
        if field == "product_interest" and new_value not in PRODUCTS:
            choices = _quoted(PRODUCTS)
            return {"output": f"Product interest not valid. Please choose from: {choices}"}
        customer = self.office.customers.get(customer_id)
        if customer is None:
            return {"output": "Customer not found."}
        if field not in customer:
            return {"output": f"Field not valid. Please choose from: {_quoted(FIELDS)}"}
        is_address = field in ("customer_email", "assigned_to_email")
        self.office.customers.update(
            customer_id, field, new_value.lower() if is_address else new_value
        )
        return {"output": "Customer updated successfully."}

    @tool
    async def customer_relationship_manager_add_customer(
        self,
        customer_name: str,
        assigned_to_email: str,
        status: str,
        customer_email: str | None = None,
        customer_phone: str | None = None,
        last_contact_date: str | None = None,
        product_interest: str | None = None,
        notes: str = "",
        follow_up_by: str | None = None,
    ) -> dict[str, object]:
        """Adds a customer.

        Args:
            customer_name: The name.
            assigned_to_email: Email address of who looks after them.
            status: Qualified, Won, Lost, Lead or Proposal.
            customer_email: Their email address.
            customer_phone: Their phone number.
            last_contact_date: When they were last contacted, YYYY-MM-DD.
            product_interest: Software, Hardware, Services, Consulting or Training.
            notes: Notes about them.
            follow_up_by: When to follow up, YYYY-MM-DD.
        """
        if not (customer_name and assigned_to_email and status):
            return {
                "output": "Please provide all required fields: "
                "customer_name, assigned_to_email, status."
            }
        last = self.office.customers.last_id()
        customer_id = f"{int(last) + 1 if last is not None else 0:08d}"
        given = {
            "customer_id": customer_id,
            "assigned_to_email": assigned_to_email.lower(),
            "customer_name": customer_name,
            "customer_email": customer_email.lower() if customer_email else customer_email,
            "customer_phone": customer_phone,
            "last_contact_date": last_contact_date,
            "product_interest": product_interest,
            "status": status,
            "follow_up_by": follow_up_by,
            "notes": notes,
        }
        columns = COLUMNS["customer_relationship_manager_data"]
        self.office.customers.insert({column: given[column] for column in columns})
        return {"output": customer_id}

    @tool
    async def customer_relationship_manager_delete_customer(
        self, customer_id: str
    ) -> dict[str, object]:
        """Deletes a customer.

        Args:
            customer_id: The customer's id.
        """
        if not customer_id:
            return {"output": "Customer ID not provided."}
        if customer_id not in self.office.customers:
            return {"output": "Customer not found."}
        self.office.customers.delete(customer_id)
        return {"output": "Customer deleted successfully."}


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _matches(
    customer: Row, wanted: dict[str, str], ranges: dict[str, tuple[str | None, str | None]]
) -> bool:
    for column, text in wanted.items():
        value = customer[column]
        if value is None or text not in str(value).lower():
            return False
    for column, (low, high) in ranges.items():
        # Compared as text, so "2023-11-30 23:59:00" comes after "2023-11-30".
        value = customer[column]
        if (low or high) and value is None:
            return False
        if (low and str(value) < low) or (high and str(value) > high):
            return False
    return True
