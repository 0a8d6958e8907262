"""Reading request bodies by API, and token usage from answers: bytes in, values out. No I/O, no clock, no logging of prompts."""
