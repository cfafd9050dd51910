"""The project management tools."""

from __future__ import annotations

from gym_adapters import tool

from .tables import Office

__all__ = ["BOARDS", "LISTS", "ProjectTools"]

LISTS = ("Backlog", "In Progress", "In Review", "Completed")
BOARDS = ("Back end", "Front end", "Design")
BAD_ASSIGNEE = "Assignee email not valid. Please choose from the list of team members."


class ProjectTools:
    """Reading, searching, creating, changing and deleting tasks on the boards."""

    office: Office

    @tool
    async def project_management_get_task_information_by_id(
        self, task_id: str, field: str
    ) -> dict[str, object]:
        """Returns one field of a task.

        Args:
            task_id: The task's id, 8 digits.
            field: One of task_id, task_name, assigned_to_email, list_name, due_date, board.
        """
        if not task_id:
            return {"output": "Task ID not provided."}
        if not field:
            return {"output": "Field not provided."}
        task = self.office.tasks.get(task_id)
        if task is None:
            return {"output": "Task not found."}
        return {"output": {field: task[field]} if field in task else "Field not found."}

    @tool
    async def project_management_search_tasks(
        self,
        task_name: str | None = None,
        assigned_to_email: str | None = None,
        list_name: str | None = None,
        due_date: str | None = None,
        board: str | None = None,
    ) -> dict[str, object]:
        """Searches tasks; all that is given must match.

        Args:
            task_name: A part of the task's name.
            assigned_to_email: Email address of who does it.
            list_name: A part of its list's name.
            due_date: When it is due, YYYY-MM-DD or a part of it.
            board: A part of its board's name.
        """
        if not (task_name or assigned_to_email or list_name or due_date or board):
            return {"output": "No search parameters provided."}
        if assigned_to_email and not _is_address(assigned_to_email):
            return {"output": "Invalid email format for assigned_to_email."}
        parts = {
            "task_name": task_name,
            "list_name": list_name,
            "due_date": due_date,
            "board": board,
        }
        wanted = {column: text.lower() for column, text in parts.items() if text}
        assignee = assigned_to_email.lower() if assigned_to_email else None
        found = [
            dict(task)
            for task in self.office.tasks
            if all(text in str(task[column]).lower() for column, text in wanted.items())
            and (assignee is None or str(task["assigned_to_email"]).lower() == assignee)
        ]
        return {"output": found}

    @tool
    async def project_management_create_task(
        self, task_name: str, assigned_to_email: str, list_name: str, due_date: str, board: str
    ) -> dict[str, object]:
        """Creates a task.

        Args:
            task_name: Its name.
            assigned_to_email: Email address of who does it.
            list_name: Backlog, In Progress, In Review or Completed.
            due_date: When it is due, YYYY-MM-DD.
            board: Back end, Front end or Design.
        """
        if not all((task_name, assigned_to_email, list_name, due_date, board)):
            return {"output": "Missing task details."}
        assignee = assigned_to_email.lower()
        if not self._is_member(assignee):
            return {"output": BAD_ASSIGNEE}
        problem = _problem("list_name", list_name) or _problem("board", board)
        if problem:
            return {"output": problem}
        last = self.office.tasks.last_id()
        task_id = f"{int(last) + 1 if last is not None else 0:08d}"
        self.office.tasks.insert(
            {
                "task_id": task_id,
                "task_name": task_name,
                "assigned_to_email": assignee,
                "list_name": list_name,
                "due_date": due_date,
                "board": board,
            }
        )
        return {"output": task_id}

    @tool
    async def project_management_delete_task(self, task_id: str) -> dict[str, object]:
        """Deletes a task.

        Args:
            task_id: The task's id, 8 digits.
        """
        if not task_id:
            return {"output": "Task ID not provided."}
        if task_id not in self.office.tasks:
            return {"output": "Task not found."}
        self.office.tasks.delete(task_id)
        return {"output": "Task deleted successfully."}

    @tool
    async def project_management_update_task(
        self, task_id: str, field: str, new_value: str
    ) -> dict[str, object]:
        """Changes one field of a task.

        Args:
            task_id: The task's id, 8 digits.
            field: One of task_name, assigned_to_email, list_name, due_date, board.
            new_value: What to set it to.
        """
        if not task_id or not field or not new_value:
            return {"output": "Task ID, field, or new value not provided."}
        value = new_value.lower() if field == "assigned_to_email" else new_value
        problem = _problem(field, value)
        if problem:
            return {"output": problem}
        if field == "assigned_to_email" and not self._is_member(value):
            return {"output": BAD_ASSIGNEE}
        task = self.office.tasks.get(task_id)
        if task is None:
            return {"output": "Task not found."}
        if field not in task:
            return {"output": "Field not valid."}
        self.office.tasks.update(task_id, field, value)
        return {"output": "Task updated successfully."}

    def _is_member(self, address: str) -> bool:
        return any(str(task["assigned_to_email"]).lower() == address for task in self.office.tasks)


def _problem(field: str, value: str) -> str | None:
    if field == "board" and value not in BOARDS:
        return "Board not valid. Please choose from: 'Back end', 'Front end', 'Design'."
    if field == "list_name" and value not in LISTS:
        choices = ", ".join(f"'{name}'" for name in LISTS)
        return f"List not valid. Please choose from: {choices}."
    return None


def _is_address(text: str) -> bool:
    name, at, host = text.partition("@")
    domain, dot, ending = host.rpartition(".")
    return bool(at and dot and name and domain) and len(ending) >= 2 and " " not in text
