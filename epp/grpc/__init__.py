"""The servers that host the method table, TLS, drain. Frames in, frames out; no decision here."""
