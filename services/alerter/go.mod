module github.com/picketd/picket/services/alerter

go 1.26.0

require (
	github.com/google/go-cmp v0.7.0
	github.com/google/uuid v1.6.0
	github.com/picketd/picket/proto v0.0.0
	google.golang.org/protobuf v1.36.12
	pgregory.net/rapid v1.3.0
)

replace (
	github.com/picketd/picket/internal => ../../internal
	github.com/picketd/picket/proto => ../../proto
)
