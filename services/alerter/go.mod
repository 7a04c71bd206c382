module github.com/picketd/picket/services/alerter

go 1.26.0

require (
	github.com/picketd/picket/internal v0.0.0
	github.com/picketd/picket/proto v0.0.0
)

require (
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/prometheus/client_golang v1.25.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
	pgregory.net/rapid v1.3.0 // indirect
)

replace (
	github.com/picketd/picket/internal => ../../internal
	github.com/picketd/picket/proto => ../../proto
)
