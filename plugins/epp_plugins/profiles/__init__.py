"""Profile handlers: decide which scheduling profiles run and whose choice serves the request."""
