package prober

import (
	"strings"
	"testing"
)

func TestConfigIsValidated(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"FLEET_HEALTH_BATCH_SIZE":   func(c *Config) { c.HostBatchSize = -1 },
		"FLEET_HEALTH_BATCH_DELAY":  func(c *Config) { c.HostBatchDelay = -1 },
		"FLEET_HEALTH_INTERVAL":     func(c *Config) { c.CycleInterval = 0 },
		"PICKET_PROBER_CONCURRENCY": func(c *Config) { c.MaxInFlight = -1 },
		"PICKET_PROBER_BODY_LIMIT":  func(c *Config) { c.BodyLimit = 0 },
		"PICKET_PROBER_BODY_MEMORY": func(c *Config) { c.BodyMemory = c.BodyLimit - 1 },
		"PICKET_PROBER_QUEUE_BYTES": func(c *Config) { c.QueueBytes = 0 },
	} {
		c := DefaultConfig()
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
