package collector

import (
	"errors"
	"fmt"
	"time"
)

// Config is what a collector can be told.
type Config struct {
	HostBatchSize    int           `env:"FLEET_METRICS_BATCH_SIZE" desc:"Most collections in flight from one target host; 0: no bound."`
	HostBatchDelay   time.Duration `env:"FLEET_METRICS_BATCH_DELAY" desc:"Pause before the next such batch from the same host."`
	CycleInterval    time.Duration `env:"FLEET_METRICS_INTERVAL" desc:"Interval of checks of the kind metrics that have none of their own; a cycle of the worker statistics."`
	PlatformInterval time.Duration `env:"METRICS_COLLECTION_INTERVAL" desc:"How often Picket's own parts are measured."`
	MaxInFlight      int           `env:"PICKET_COLLECTOR_CONCURRENCY" desc:"Most collections in flight of one process; 0: half of its open files."`
	BodyLimit        int           `env:"PICKET_COLLECTOR_BODY_LIMIT" desc:"Longest answer that is read, in bytes, expanded."`
	BodyMemory       int           `env:"PICKET_COLLECTOR_BODY_MEMORY" desc:"Memory for long answers, in bytes; those that find no room wait."`
	SeriesLimit      int           `env:"PICKET_COLLECTOR_SERIES_LIMIT" desc:"Most series of one answer that rules may need."`
	QueueBytes       int           `env:"PICKET_COLLECTOR_QUEUE_BYTES" desc:"Memory for figures and results while NATS is away; the oldest go first."`
	SecretsDir       string        `env:"PICKET_SECRETS_DIR" desc:"Directory below which secret:file: references may point. References to variables may point to PICKET_SECRET_* only."`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		HostBatchSize: 5, HostBatchDelay: time.Second, CycleInterval: time.Minute, PlatformInterval: 5 * time.Second,
		BodyLimit: 16 << 20, BodyMemory: 128 << 20, SeriesLimit: 20_000, QueueBytes: 128 << 20, SecretsDir: "/run/secrets",
	}
}

// Validate names every setting that cannot be.
func (c Config) Validate() error {
	var faults []error
	least := func(name string, value, least int) {
		if value < least {
			faults = append(faults, fmt.Errorf("%s: %d is less than %d", name, value, least))
		}
	}
	least("FLEET_METRICS_BATCH_SIZE", c.HostBatchSize, 0)
	least("PICKET_COLLECTOR_CONCURRENCY", c.MaxInFlight, 0)
	least("PICKET_COLLECTOR_BODY_LIMIT", c.BodyLimit, 1)
	least("PICKET_COLLECTOR_BODY_MEMORY", c.BodyMemory, c.BodyLimit)
	least("PICKET_COLLECTOR_SERIES_LIMIT", c.SeriesLimit, 1)
	least("PICKET_COLLECTOR_QUEUE_BYTES", c.QueueBytes, 1<<16)
	if c.HostBatchDelay < 0 {
		faults = append(faults, fmt.Errorf("FLEET_METRICS_BATCH_DELAY: %s is negative", c.HostBatchDelay))
	}
	for _, interval := range []struct {
		name  string
		value time.Duration
	}{{"FLEET_METRICS_INTERVAL", c.CycleInterval}, {"METRICS_COLLECTION_INTERVAL", c.PlatformInterval}} {
		if interval.value < time.Second || interval.value%time.Millisecond != 0 {
			faults = append(faults, fmt.Errorf("%s: %s is less than 1s, or not in whole milliseconds", interval.name, interval.value))
		}
	}
	return errors.Join(faults...)
}
