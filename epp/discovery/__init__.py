"""Which endpoints exist: found in a list, a file or DNS; and told to Envoy over EDS."""
