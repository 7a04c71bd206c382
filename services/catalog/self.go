package catalog

import (
	"slices"
	"time"

	"github.com/picketd/picket/internal/catalog"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const selfInterval = 10 * time.Second

// self are the servers of the source self: those that the program declares, and those that the settings do. What the
// program declares itself is not declared again.
func self(config Config, builtin []catalog.Server) []catalog.Server {
	servers := slices.Clone(builtin)
	if config.SelfWriter == "" {
		return servers
	}
	for _, server := range []catalog.Server{
		{
			Name: "picket-database", DisplayName: "PostgreSQL",
			Checks: []catalog.Check{
				{Name: catalog.HealthCheck, Interval: selfInterval, Reported: true},
				{Name: "partition", Interval: time.Minute, Reported: true},
			},
		},
		{
			Name: "picket-writer", DisplayName: "Service writer",
			Checks: []catalog.Check{
				{Name: catalog.HealthCheck, Interval: selfInterval, HTTP: &picketv1.HTTPSpec{Url: config.SelfWriter}},
				{Name: "backlog", Interval: time.Minute, Reported: true},
			},
		},
	} {
		if !slices.ContainsFunc(builtin, func(s catalog.Server) bool { return s.Name == server.Name }) {
			servers = append(servers, server)
		}
	}
	return servers
}
