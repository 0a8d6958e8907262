"""Envoy configuration from typed messages, and the Envoy process."""
