"""Parsers by API: body to Parsed in one pass. Bodies are never re-serialised."""
