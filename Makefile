# The doors of this repository; `make` alone lists them. Each is one command that could be typed as well: what needs more
# than a line is in scripts/ and .ci/.

TOOLS := $(CURDIR)/.bin
LINT := $(TOOLS)/golangci-lint
BUF := $(TOOLS)/buf
VERSITYGW := $(TOOLS)/versitygw
OAPI := $(TOOLS)/oapi-codegen
export PATH := $(TOOLS):$(PATH)

ARGS ?=
# All modules, and first what takes longest: the rest fills the gaps in which it waits.
PKG ?= ./test/system ./services/exporter ./test/deploy work
BENCH ?= .

.DEFAULT_GOAL := help
.PHONY: help up test faults soak bench microbench lint fmt gen generate verify contract fix build clean tools go

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-17s %s\n", $$1, $$2 }'

up: go ## run Picket with everything it needs; ARGS=--demo adds a small fleet, ARGS=--help lists the flags
	@[ -e bin/picket ] || echo 'compiling Picket (minutes the first time, seconds from then on)' >&2
	@go build -o bin/picket ./cmd/picket
	@if ! scripts/database-set; then PICKET_POSTGRES_BIN=$$(scripts/postgres) && export PICKET_POSTGRES_BIN || exit; fi; \
	exec bin/picket up $(ARGS)

test: go ## run all tests; PKG=./internal/... fewer of them, ARGS='-run X -v' flags for go test
	@$(MAKE) --no-print-directory $(VERSITYGW) || echo 'test: NO S3 SERVER: it could not be built, tests against the object store are skipped' >&2
	@PICKET_POSTGRES_BIN=$$(scripts/postgres) && export PICKET_POSTGRES_BIN || exit; \
	go test $$(scripts/race-flag) -parallel $$(scripts/parallel) -timeout 20m $(ARGS) $(PKG)

faults: go ## break everything that can break, one after the other, in both deployments (half an hour); PICKET_FAULTS='frozen|COPY' picks
	@PICKET_POSTGRES_BIN=$$(scripts/postgres) && export PICKET_POSTGRES_BIN || exit; \
	PICKET_FAULTS=$${PICKET_FAULTS:-.} go test -count 1 -timeout 2h -v -parallel 2 -run '^Test(.*Faults|Hostile|Kill9|Overload)$$' $(ARGS) ./test/system

soak: go ## break a loaded Picket at random for an hour and audit it; PICKET_SOAK=10m, PICKET_SOAK_SEED, PICKET_SOAK_DEPLOYMENT, PICKET_FAULT_SECONDS=300
	@PICKET_POSTGRES_BIN=$$(scripts/postgres) && export PICKET_POSTGRES_BIN || exit; \
	PICKET_SOAK=$${PICKET_SOAK:-1h} PICKET_FAULT_SECONDS=$${PICKET_FAULT_SECONDS:-300} \
	go test -count 1 -timeout 0 -v -run '^TestSoak$$' $(ARGS) ./test/system

bench: go ## measure what Picket costs against limits of the same run (ten minutes); ARGS=--list names the measurements
	@PICKET_POSTGRES_BIN=$$(scripts/postgres) && export PICKET_POSTGRES_BIN || exit; \
	go run ./test/bench $(ARGS)

microbench: go ## run the benchmarks of the rooms; PKG and BENCH (a pattern) choose, ARGS='-count 10' for benchstat
	@PICKET_POSTGRES_BIN=$$(scripts/postgres) && export PICKET_POSTGRES_BIN || exit; \
	go test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 60m $(ARGS) $(PKG)

build: go ## build every program into bin/
	@go build -o bin/ work

lint: go $(LINT) ## find what is wrong with the code beyond what the compiler says
	@$(LINT) run $$(go list -m -f '{{.Dir}}/...')
	@if command -v shellcheck >/dev/null; then shellcheck $$(scripts/shell-files); else echo 'lint: no shellcheck here, shell scripts go unread' >&2; fi

fmt: go $(LINT) ## format the code
	@$(LINT) fmt $$(go list -m -f '{{.Dir}}')

gen: generate $(BUF) $(TOOLS)/protoc-gen-go ## write all generated files anew
	@cd proto && $(BUF) generate

generate: go $(OAPI) ## of gen, what needs no protocol tools: configuration, documents, the client of the API
	@go generate work

verify: go $(LINT) $(BUF) $(TOOLS)/protoc-gen-go $(OAPI) ## check everything that needs no running: format, vet, lint, generated files, modules
	@scripts/verify

contract: go $(BUF) $(TOOLS)/protoc-gen-go ## of verify, what concerns the wire contract: lint, compatible with main, code fresh
	@scripts/verify proto compatible contract

fix: fmt ## cure what verify finds, where a machine can
	@$(LINT) run --fix $$(go list -m -f '{{.Dir}}/...') || echo 'fix: what is listed above needs a person' >&2
	@go run ./scripts/modules -fix
	@for dir in $$(go list -m -f '{{.Dir}}'); do go -C "$$dir" mod tidy || exit; done
	@$(MAKE) --no-print-directory gen

tools: $(LINT) $(BUF) $(VERSITYGW) $(TOOLS)/protoc-gen-go $(OAPI) ## build the pinned developer tools into .bin/ (minutes, once)

clean: ## remove what was built here
	@rm -rf bin .bin

# Before anything else and outside the repository, where a Go older than 1.21 would stumble over go.work in words that
# name neither it nor the cure.
go:
	@v=$$(cd / && go version 2>/dev/null | sed -n 's/.*go1\.\([0-9]*\).*/\1/p'); [ "$${v:-0}" -ge 26 ] || \
	{ echo "make: Picket needs Go 1.26 or newer, here is $$(cd / && go version 2>/dev/null || echo none): see https://go.dev/dl" >&2; exit 1; }

# The tools have modules of their own outside go.work, so that their dependencies do not raise ours. Rebuilt when their
# version changes.
$(LINT): tools/golangci/go.mod | go
	@echo 'building golangci-lint (minutes, once)' >&2
	@GOWORK=off GOBIN=$(TOOLS) go -C tools/golangci install tool
	@touch $@

$(BUF): tools/buf/go.mod | go
	@echo 'building buf (minutes, once)' >&2
	@GOWORK=off GOBIN=$(TOOLS) go -C tools/buf install tool
	@touch $@

# The S3 server of the tests, a process of its own. Without symbols, which are half of the file and of the linking.
$(VERSITYGW): tools/versitygw/go.mod | go
	@echo 'building versitygw, the S3 server of the tests (a minute or two, once)' >&2
	@GOWORK=off GOBIN=$(TOOLS) go -C tools/versitygw install -ldflags='-s -w' tool
	@touch $@

$(OAPI): tools/oapi/go.mod | go
	@echo 'building oapi-codegen (a minute, once)' >&2
	@GOWORK=off GOBIN=$(TOOLS) go -C tools/oapi install tool
	@touch $@

$(TOOLS)/protoc-gen-go: tools/go.mod | go
	@GOWORK=off GOBIN=$(TOOLS) go -C tools install tool
	@touch $@
