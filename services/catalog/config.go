package catalog

import (
	"errors"
	"fmt"
	"time"

	"github.com/picketd/picket/internal/catalog"
)

// Config is what the catalog service can be told.
type Config struct {
	EnvInterval     time.Duration `env:"HEALTH_CHECK_INTERVAL" desc:"Interval of servers from variables <NAME>_HEALTH_URL; at least 5 seconds."`
	Interval        time.Duration `env:"FLEET_HEALTH_INTERVAL" desc:"Interval of checks that have none of their own."`
	MetricsInterval time.Duration `env:"FLEET_METRICS_INTERVAL" desc:"Interval of checks of the kind metrics that have none of their own."`
	ConfirmRemoval  int           `env:"PICKET_CATALOG_CONFIRM_REMOVAL" desc:"Confirms an edit that removes exactly that many servers, more than half of those of its source."`
	SelfWriter      string        `env:"PICKET_SELF_WRITER" desc:"URL of the writers' /health. Where services are processes of their own it declares what only writers can report: the servers picket-database (checks health and partition) and picket-writer (backlog, besides health at this URL)."`
	// File is picket.yaml; empty: none.
	File string
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{EnvInterval: catalog.DefaultEnvInterval, Interval: catalog.DefaultInterval, MetricsInterval: catalog.DefaultMetricsInterval}
}

// Validate returns all faults, by the name of the variable.
func (c *Config) Validate() error {
	var faults []error
	if c.EnvInterval < catalog.MinEnvInterval || c.EnvInterval > catalog.MaxInterval {
		faults = append(faults, fmt.Errorf("HEALTH_CHECK_INTERVAL: %s is not between %s and %s",
			c.EnvInterval, catalog.MinEnvInterval, catalog.MaxInterval))
	}
	for _, interval := range []struct {
		name  string
		value time.Duration
	}{{"FLEET_HEALTH_INTERVAL", c.Interval}, {"FLEET_METRICS_INTERVAL", c.MetricsInterval}} {
		if interval.value < catalog.MinInterval || interval.value > catalog.MaxInterval || interval.value%time.Millisecond != 0 {
			faults = append(faults, fmt.Errorf("%s: %s is not between %s and %s, in whole milliseconds",
				interval.name, interval.value, catalog.MinInterval, catalog.MaxInterval))
		}
	}
	if c.ConfirmRemoval < 0 {
		faults = append(faults, fmt.Errorf("PICKET_CATALOG_CONFIRM_REMOVAL: %d is not a number of servers", c.ConfirmRemoval))
	}
	return errors.Join(faults...)
}
