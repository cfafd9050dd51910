"""Any puzzle generator of the package ``reasoning-gym``."""
