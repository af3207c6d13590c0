.PHONY: demo test lint bench docs
demo: ; scripts/demo
test: ; scripts/test
lint: ; scripts/lint
bench: ; scripts/bench
docs: ; scripts/docs
