up:
	scripts/up
test:
	scripts/test
lint:
	scripts/lint
generate:
	scripts/generate
bench:
	scripts/bench
lock:
	scripts/lock
.PHONY: up test lint generate bench lock
