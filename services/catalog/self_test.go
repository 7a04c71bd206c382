package catalog

import (
	"testing"

	"github.com/picketd/picket/internal/catalog"
)

// What only writers can report is declared where the program does not do so itself, and is a valid catalog.
func TestSelfWriter(t *testing.T) {
	t.Parallel()
	config := DefaultConfig()
	if got := self(config, nil); len(got) != 0 {
		t.Errorf("declared without being told to: %v", got)
	}
	config.SelfWriter = "http://writer:9463/health"
	declared := map[string]string{}
	for _, server := range self(config, []catalog.Server{{Name: "picket-nats"}}) {
		for _, check := range server.Checks {
			declared[server.Name+" "+check.Name] = check.Kind()
		}
		server.Source = catalog.SourceSelf
		server.Complete(catalog.Defaults{Interval: config.Interval, MetricsInterval: config.MetricsInterval, Locations: []string{"local"}})
		if err := server.Validate(server.Name).Err(); err != nil && server.Name != "picket-nats" {
			t.Error(err)
		}
	}
	want := map[string]string{
		"picket-database health": "reported", "picket-database partition": "reported", "picket-writer health": "http", "picket-writer backlog": "reported",
	}
	for name, kind := range want {
		if declared[name] != kind {
			t.Errorf("%s is of the kind %q, want %q", name, declared[name], kind)
		}
	}
	again := self(config, []catalog.Server{{Name: "picket-writer"}, {Name: "picket-database"}})
	if len(again) != 2 {
		t.Errorf("%d servers where the program declares both, want 2", len(again))
	}
}
