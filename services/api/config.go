package api

import (
	"errors"
	"fmt"
	"time"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
)

// Config is what the api can be told.
type Config struct {
	Listen          string        `env:"PICKET_API_LISTEN" desc:"Address of the API; empty: it does not listen by itself."`
	AdminToken      string        `env:"PICKET_ADMIN_TOKEN" desc:"Token of the first admin, pk_<id>_<secret>: 8 to 32 of a-z and 0-9, then 32 to 128 letters and digits." secret:"true"`
	RateLimit       float64       `env:"PICKET_API_RATE_LIMIT" desc:"Requests a second of one token; twice as many at once."`
	AuthFailures    int           `env:"PICKET_API_AUTH_FAILURES" desc:"Refused tokens a minute from one address before it has to wait."`
	RequestTimeout  time.Duration `env:"PICKET_API_REQUEST_TIMEOUT" desc:"How long a request may take that says nothing else."`
	MaxBodyBytes    int64         `env:"PICKET_API_MAX_BODY_BYTES" desc:"Largest body of a request."`
	HealthInterval  time.Duration `env:"FLEET_HEALTH_INTERVAL" desc:"Interval of checks that have none of their own."`
	MetricsInterval time.Duration `env:"FLEET_METRICS_INTERVAL" desc:"Interval of the check metrics of servers registered with an address."`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		RateLimit: 500, AuthFailures: 30, RequestTimeout: 10 * time.Second, MaxBodyBytes: 1 << 20,
		HealthInterval: catalog.DefaultInterval, MetricsInterval: time.Minute,
	}
}

// Validate returns all faults, by the name of the variable.
func (c *Config) Validate() error {
	var faults []error
	if c.AdminToken != "" {
		if _, err := store.ParseTokenSecret(c.AdminToken); err != nil {
			faults = append(faults, fmt.Errorf("PICKET_ADMIN_TOKEN: %w", err))
		}
	}
	if !(c.RateLimit >= 1 && c.RateLimit <= 1e6) {
		faults = append(faults, fmt.Errorf("PICKET_API_RATE_LIMIT: %g is not within 1 and 1000000", c.RateLimit))
	}
	if c.AuthFailures < 1 || c.AuthFailures > 1e6 {
		faults = append(faults, fmt.Errorf("PICKET_API_AUTH_FAILURES: %d is not within 1 and 1000000", c.AuthFailures))
	}
	if c.RequestTimeout < 100*time.Millisecond || c.RequestTimeout > time.Hour {
		faults = append(faults, fmt.Errorf("PICKET_API_REQUEST_TIMEOUT: %s is not within 100ms and 1h", c.RequestTimeout))
	}
	if c.MaxBodyBytes < 1<<10 || c.MaxBodyBytes > 1<<30 {
		faults = append(faults, fmt.Errorf("PICKET_API_MAX_BODY_BYTES: %d is not within 1 KiB and 1 GiB", c.MaxBodyBytes))
	}
	for _, interval := range []struct {
		variable string
		value    time.Duration
	}{{"FLEET_HEALTH_INTERVAL", c.HealthInterval}, {"FLEET_METRICS_INTERVAL", c.MetricsInterval}} {
		if d := interval.value; d < catalog.MinInterval || d > catalog.MaxInterval || d%time.Millisecond != 0 {
			faults = append(faults, fmt.Errorf("%s: %s is not between %s and %s, in whole milliseconds",
				interval.variable, d, catalog.MinInterval, catalog.MaxInterval))
		}
	}
	return errors.Join(faults...)
}
