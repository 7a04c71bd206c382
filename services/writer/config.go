package writer

import (
	"errors"
	"fmt"
	"time"

	"github.com/picketd/picket/internal/store"
)

// Config is what the writer can be told.
type Config struct {
	BatchRows       int           `env:"PICKET_WRITER_BATCH_ROWS" desc:"Most results in one transaction."`
	BatchWait       time.Duration `env:"PICKET_WRITER_BATCH_WAIT" desc:"How long a batch gathers results before it is written."`
	StateFlush      time.Duration `env:"PICKET_WRITER_STATE_FLUSH" desc:"How often the times of current states are written; changes of status never wait for it."`
	FiguresInterval time.Duration `env:"METRICS_COLLECTION_INTERVAL" desc:"How often Picket's own parts are measured."`
	Retention       Retention
}

// Retention is how many days things are kept. In plain mode time series go by whole months.
type Retention struct {
	Results             int `env:"PICKET_RETENTION_RESULTS" desc:"Days that results of checks are kept; like all of these at least 5."`
	Metrics             int `env:"PICKET_RETENTION_METRICS" desc:"Days that metrics of servers are kept as they came."`
	Metrics5m           int `env:"PICKET_RETENTION_METRICS_5M" desc:"Days that their roll-up of 5 minutes is kept."`
	Metrics1h           int `env:"PICKET_RETENTION_METRICS_1H" desc:"Days that their roll-up of an hour is kept."`
	Metrics1d           int `env:"PICKET_RETENTION_METRICS_1D" desc:"Days that their roll-up of a day is kept, and so costs."`
	SystemMetrics       int `env:"PICKET_RETENTION_SYSTEM_METRICS" desc:"Days that figures of Picket's own parts and counters are kept."`
	SystemMetricsHourly int `env:"PICKET_RETENTION_SYSTEM_METRICS_HOURLY" desc:"Days that their roll-up of an hour is kept."`
	Alerts              int `env:"PICKET_RETENTION_ALERTS" desc:"Days that closed alerts are kept, with their events; others stay."`
	Gaps                int `env:"PICKET_RETENTION_GAPS" desc:"Days that gaps of the streams are kept; coverage is explained by them."`
	Audit               int `env:"PICKET_RETENTION_AUDIT" desc:"Days that the audit log is kept."`
}

// keep is the same for the store.
func (r Retention) keep() store.Retention { return store.Retention(r) }

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		BatchRows: 5000, BatchWait: 300 * time.Millisecond, StateFlush: 10 * time.Second, FiguresInterval: 5 * time.Second,
		Retention: Retention(store.DefaultRetention()),
	}
}

// mostRetention keeps dates within what everything can count.
const mostRetention = 36_500

// Validate names every setting that is out of range.
func (c Config) Validate() error {
	var faults []error
	if c.BatchRows < 1 || c.BatchRows > 20_000 {
		faults = append(faults, fmt.Errorf("PICKET_WRITER_BATCH_ROWS: %d is not within 1 and 20000", c.BatchRows))
	}
	if c.BatchWait <= 0 || c.BatchWait > 10*time.Second {
		faults = append(faults, fmt.Errorf("PICKET_WRITER_BATCH_WAIT: %s is not within 0 and 10s", c.BatchWait))
	}
	if c.StateFlush <= 0 || c.StateFlush > 10*time.Minute {
		faults = append(faults, fmt.Errorf("PICKET_WRITER_STATE_FLUSH: %s is not within 0 and 10m", c.StateFlush))
	}
	if c.FiguresInterval < time.Second || c.FiguresInterval > time.Hour {
		faults = append(faults, fmt.Errorf("METRICS_COLLECTION_INTERVAL: %s is not within 1s and 1h", c.FiguresInterval))
	}
	r := c.Retention
	for _, setting := range []struct {
		name string
		days int
	}{
		{"RESULTS", r.Results},
		{"METRICS", r.Metrics},
		{"METRICS_5M", r.Metrics5m},
		{"METRICS_1H", r.Metrics1h},
		{"METRICS_1D", r.Metrics1d},
		{"SYSTEM_METRICS", r.SystemMetrics},
		{"SYSTEM_METRICS_HOURLY", r.SystemMetricsHourly},
		{"ALERTS", r.Alerts},
		{"GAPS", r.Gaps},
		{"AUDIT", r.Audit},
	} {
		if setting.days < store.LeastRetention || setting.days > mostRetention {
			faults = append(faults, fmt.Errorf("PICKET_RETENTION_%s: %d days are not within %d and %d", setting.name, setting.days, store.LeastRetention, mostRetention))
		}
	}
	return errors.Join(faults...)
}
