module github.com/picketd/picket

go 1.26.0

require (
	github.com/alecthomas/kong v1.17.0
	github.com/picketd/picket/internal v0.0.0
	github.com/picketd/picket/proto v0.0.0
	github.com/picketd/picket/services/alerter v0.0.0
	github.com/picketd/picket/services/catalog v0.0.0
	github.com/picketd/picket/services/prober v0.0.0
	github.com/picketd/picket/services/writer v0.0.0
	github.com/rogpeppe/go-internal v1.16.0
)

require (
	github.com/bufbuild/protocompile v0.14.1 // indirect
	github.com/google/go-cmp v0.7.0 // indirect
	go.uber.org/goleak v1.3.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace (
	github.com/picketd/picket/internal => ./internal
	github.com/picketd/picket/proto => ./proto
	github.com/picketd/picket/services/alerter => ./services/alerter
	github.com/picketd/picket/services/catalog => ./services/catalog
	github.com/picketd/picket/services/prober => ./services/prober
	github.com/picketd/picket/services/writer => ./services/writer
)
