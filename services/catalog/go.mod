module github.com/picketd/picket/services/catalog

go 1.26.0

require (
	github.com/picketd/picket/internal v0.0.0
	github.com/picketd/picket/proto v0.0.0
)

replace (
	github.com/picketd/picket/internal => ../../internal
	github.com/picketd/picket/proto => ../../proto
)
