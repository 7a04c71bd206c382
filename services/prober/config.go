package prober

import (
	"errors"
	"fmt"
	"time"
)

// Config is what a prober can be told.
type Config struct {
	HostBatchSize  int           `env:"FLEET_HEALTH_BATCH_SIZE" desc:"Most health checks in flight to one target host; 0: no bound."`
	HostBatchDelay time.Duration `env:"FLEET_HEALTH_BATCH_DELAY" desc:"Pause before the next such batch to the same host."`
	CycleInterval  time.Duration `env:"FLEET_HEALTH_INTERVAL" desc:"Interval of checks that have none of their own; a cycle of the worker statistics."`
	MaxInFlight    int           `env:"PICKET_PROBER_CONCURRENCY" desc:"Most probes in flight of one process; 0: half of its open files."`
	BodyLimit      int           `env:"PICKET_PROBER_BODY_LIMIT" desc:"Most bytes that are read of an answer."`
	BodyMemory     int           `env:"PICKET_PROBER_BODY_MEMORY" desc:"Memory for answers beyond 64 KiB and for compressed ones, in bytes; those that find no room wait."`
	QueueBytes     int           `env:"PICKET_PROBER_QUEUE_BYTES" desc:"Memory for results while NATS is away; the oldest go first."`
	SecretsDir     string        `env:"PICKET_SECRETS_DIR" desc:"Directory below which secret:file: references may point. References to variables may point to PICKET_SECRET_* only."`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		HostBatchSize: 10, HostBatchDelay: 500 * time.Millisecond, CycleInterval: 30 * time.Second,
		BodyLimit: 1 << 20, BodyMemory: 64 << 20, QueueBytes: 128 << 20, SecretsDir: "/run/secrets",
	}
}

// Validate names every setting that cannot be.
func (c Config) Validate() error {
	var faults []error
	least := func(name string, value, least int64) {
		if value < least {
			faults = append(faults, fmt.Errorf("%s: %d is less than %d", name, value, least))
		}
	}
	least("FLEET_HEALTH_BATCH_SIZE", int64(c.HostBatchSize), 0)
	least("PICKET_PROBER_CONCURRENCY", int64(c.MaxInFlight), 0)
	least("PICKET_PROBER_BODY_LIMIT", int64(c.BodyLimit), 1)
	least("PICKET_PROBER_BODY_MEMORY", int64(c.BodyMemory), int64(c.BodyLimit))
	least("PICKET_PROBER_QUEUE_BYTES", int64(c.QueueBytes), 1<<16)
	if c.HostBatchDelay < 0 {
		faults = append(faults, fmt.Errorf("FLEET_HEALTH_BATCH_DELAY: %s is negative", c.HostBatchDelay))
	}
	if c.CycleInterval < time.Second {
		faults = append(faults, fmt.Errorf("FLEET_HEALTH_INTERVAL: %s is less than 1s", c.CycleInterval))
	}
	return errors.Join(faults...)
}
