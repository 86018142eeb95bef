# Bluejay's chores. CI (.ci/run) calls these same targets.

SHELL := /bin/bash

# How long each fuzz target runs: a count of inputs by default, since on Go 1.26
# a duration can fail without a finding ("context deadline exceeded", golang/go#75804).
FUZZTIME ?= 100000x

# The newest version whose dependencies the public module proxy serves whole.
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.8.0

.DEFAULT_GOAL := help
.PHONY: help build test race vet lint fuzz bench vuln ci

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' Makefile

build: ## build the one binary into bin/bluejay
	go build -trimpath -o bin/bluejay ./cmd/bluejay

test: ## run every test
	go test ./...

race: ## run every test under the race detector (needs a C compiler)
	go test -race ./...

vet: ## gofmt and go vet; prints what gofmt would change
	@files=$$(gofmt -l .) || exit 1; \
	if [ -n "$$files" ]; then echo "run gofmt -w on:"; echo "$$files"; exit 1; fi
	go vet ./...

lint: ## staticcheck, at the version go.mod pins
	go tool staticcheck ./...

fuzz: ## run each fuzz target for FUZZTIME (such as 5000x or 10m)
	@set -euo pipefail; \
	targets=$$(go test -list '^Fuzz' ./... | awk '/^Fuzz/ { name[n++] = $$1 } \
		/^ok/ { for (i = 0; i < n; i++) print $$2, name[i]; n = 0 }'); \
	if [ -z "$$targets" ]; then echo "make fuzz: found no func Fuzz… in any _test.go"; exit 1; fi; \
	while read -r pkg name; do \
		echo "fuzz $$pkg $$name"; \
		go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x "$$pkg" </dev/null; \
	done <<< "$$targets"

bench: ## run every benchmark, with allocations
	go test -run '^$$' -bench . -benchmem ./...

# Not in CI: the vulnerability database is fetched from vuln.go.dev at each run,
# so the answer depends on the network and on the day.
vuln: ## report known vulnerabilities we reach (needs the network)
	go run $(GOVULNCHECK) ./...

ci: ## everything CI runs, in the same order
	./.ci/run
