"""ext_proc: events, the sans-io machine, protobuf in and out."""
