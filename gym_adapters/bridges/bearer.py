"""The token that a server of others asks for."""

from __future__ import annotations

import os

from gym_adapters.errors import InvalidConfig

__all__ = ["bearer_headers"]


def bearer_headers(variable: str | None) -> dict[str, str]:
    """The header that carries the token; none without a variable.

    Args:
        variable: The environment variable that holds it, so that no configuration does.

    Raises:
        InvalidConfig: If the variable is empty.
    """
    if variable is None:
        return {}
    token = os.environ.get(variable)
    if not token:
        raise InvalidConfig(f"the environment variable {variable} is empty")
    return {"Authorization": f"Bearer {token}"}
