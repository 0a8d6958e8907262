"""ext_proc: what Envoy says (events), what the picker answers (replies), and the machine between them."""
