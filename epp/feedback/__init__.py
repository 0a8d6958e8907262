"""Envoy's access log into outcomes."""
