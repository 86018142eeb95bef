# Bluejay's chores. CI (.ci/run) calls these same targets.

SHELL := /bin/bash

# How long each fuzz target runs: a count of inputs by default, since on Go 1.26
# a duration can fail without a finding ("context deadline exceeded", golang/go#75804).
FUZZTIME ?= 100000x

# The newest version whose dependencies the public module proxy serves whole.
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.8.0

# What make bench compares with, how often each benchmark runs (benchstat wants six), and for how long (or 100x).
BASE ?= HEAD~1
COUNT ?= 6
BENCHTIME ?= 1s
BENCHSTAT := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da

.DEFAULT_GOAL := help
.PHONY: help build test race vet lint fuzz bench bench-all integration faults vuln ci

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

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
	go vet -tags integration ./...

lint: ## staticcheck, at the version go.mod pins
	go tool staticcheck -tags integration ./...

fuzz: ## run each fuzz target for FUZZTIME (such as 5000x or 10m)
	@set -euo pipefail; \
	targets=$$(go test -list '^Fuzz' ./... | awk '/^Fuzz/ { name[n++] = $$1 } \
		/^ok/ { for (i = 0; i < n; i++) print $$2, name[i]; n = 0 }'); \
	if [ -z "$$targets" ]; then echo "make fuzz: found no func Fuzz… in any _test.go"; exit 1; fi; \
	while read -r pkg name; do \
		echo "fuzz $$pkg $$name"; \
		go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x "$$pkg" </dev/null; \
	done <<< "$$targets"

integration: ## run against real SMS peers (Kannel, Net::SMPP, gammu, npm's smpp: installs what is missing), and with many users
	./scripts/peers
	./scripts/bench-peers
	go test -count=1 -timeout 25m -parallel 16 -tags integration -run '^Test(Peers|ConsentRecords)' ./cmd/bluejay # they wait more than they work
	go test -count=1 -timeout 10m -tags integration -run '^TestMemoryDoesNotGrow' ./broker
	go test -count=1 -timeout 15m -tags integration -run '^TestBenchPeers' ./cmd/bluejay # alone: it fills both cores

faults: ## run the simulator against seven builds that break a promise on purpose; it must find each
	go test -count=1 -tags faults -run '^TestFaults' ./cmd/bluejay

bench: ## compare the hot path of this tree with commit BASE (5 min; COUNT, BENCHTIME; docs/benchmarks.md)
	@BASE='$(BASE)' COUNT='$(COUNT)' BENCHTIME='$(BENCHTIME)' BENCHSTAT='$(BENCHSTAT)' ./scripts/bench-compare

bench-all: ## run every benchmark once, the heavy ones too, with allocations
	go test -run '^$$' -bench . -benchmem ./...

# Not in CI: the vulnerability database is fetched from vuln.go.dev at each run,
# so the answer depends on the network and on the day.
vuln: ## report known vulnerabilities we reach (needs the network)
	go run $(GOVULNCHECK) ./...

ci: ## everything CI runs, in the same order
	./.ci/run
