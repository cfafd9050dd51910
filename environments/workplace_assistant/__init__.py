"""An office with email, calendar, website analytics, project boards and customers."""
