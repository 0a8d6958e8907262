"""What became of routed requests: from the ext_proc stream and from Envoy's access log into outcomes, each told once."""
