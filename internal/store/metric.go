package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const metricsTable = "server_metrics_aggregated"

// Metric is what one message of the metric stream says: the figures of a server at a tick, which are one row of
// server_metrics_aggregated with the identity (CheckID, Location, ScheduledAt), or figures of Picket's own parts, which
// are Samples and nothing else.
type Metric struct {
	CheckID     uuid.UUID // zero: there are only Samples
	ServerID    uuid.UUID
	Location    string
	ScheduledAt time.Time
	OnDemand    bool
	// Values are the figures by name. The well-known ones (see [MetricNames]) have columns; others, and those that do not
	// fit their column, are kept in extra.
	Values map[string]float64
	// Extra is a JSON object of what is no figure; nil: nothing.
	Extra []byte
	// StreamEpoch and StreamSeq say where in the metric stream it came, as in [Result].
	StreamEpoch, StreamSeq int64
	Org                    string

	Samples []Sample
}

const costName = "llm_cost_usd"

// MetricNames returns the names of the figures of a server that have a column of their own: percentages, then counts in
// the order of their columns, then the cost.
func MetricNames() []string {
	return []string{
		"cpu_percent", "memory_percent", "disk_percent",
		"network_rx_bytes", "network_tx_bytes", "active_services", "failed_services", "total_services", "llm_requests", "active_users", "total_users",
		costName,
	}
}

// MetricWriter writes batches of metrics. Write must not be called concurrently; any number of writers, in any number of
// processes, may work on one database.
type MetricWriter struct {
	store   *Store
	results *ResultWriter
	encoder copyEncoder
	batches batchWriter[metricRow]
}

// NewMetricWriter makes a writer. It refuses figures of checks that results knows to be another organization's.
func (s *Store) NewMetricWriter(results *ResultWriter) *MetricWriter {
	w := &MetricWriter{store: s, results: results}
	w.batches = batchWriter[metricRow]{
		store: s, tables: []string{metricsTable, samplesTable},
		at:    func(row *metricRow) time.Time { return row.ScheduledAt },
		index: func(row *metricRow) int { return row.index },
		try:   w.try,
	}
	return w
}

// Write commits the rows, all that are not refused, before it returns nil; the first of an identity stays. Errors and
// redelivered mean what they do in [ResultWriter.Write]. In [Written], a message of samples alone is a row.
func (w *MetricWriter) Write(ctx context.Context, rows []Metric, redelivered bool) (Written, error) {
	var written Written
	batch := make([]metricRow, 0, len(rows))
	for i := range rows {
		if w.results.states.isForeign(stateKey{rows[i].CheckID, rows[i].Location}, rows[i].Org) {
			written.Refused = append(written.Refused, Refused{Row: i, Err: ErrForeign})
			continue
		}
		row, err := newMetricRow(&rows[i], i)
		if err != nil {
			written.Refused = append(written.Refused, Refused{Row: i, Err: err})
			continue
		}
		batch = append(batch, row)
	}
	if len(batch) == 0 {
		return written, nil
	}
	all := len(batch)
	batch = sortMetrics(batch)
	written.Duplicates = all - len(batch)
	err := w.batches.write(ctx, batch, redelivered, &written)
	return written, err
}

// metricRow is a metric in the form of its row.
type metricRow struct {
	*Metric
	index  int
	reals  [3]*float64 // percentages
	counts [8]*int64
	cost   string // decimal; empty: none
	extra  []byte
}

func newMetricRow(m *Metric, index int) (metricRow, error) {
	row := metricRow{Metric: m, index: index}
	if m.CheckID == uuid.Nil {
		return row, nil
	}
	rest := make(map[string]json.RawMessage)
	if len(m.Extra) > 0 {
		if err := json.Unmarshal(m.Extra, &rest); err != nil {
			return row, fmt.Errorf("extra: %w", err)
		}
	}
	for name, value := range m.Values {
		if !row.take(name, value) {
			text, err := json.Marshal(value)
			if err != nil {
				return row, fmt.Errorf("figure %q: %w", name, err)
			}
			rest[name] = text
		}
	}
	if len(rest) > 0 {
		var err error
		if row.extra, err = json.Marshal(rest); err != nil {
			return row, fmt.Errorf("extra: %w", err)
		}
	}
	return row, nil
}

// take puts a figure into its column, when it has one and fits.
func (r *metricRow) take(name string, value float64) bool {
	switch name {
	case "cpu_percent":
		r.reals[0] = &value
	case "memory_percent":
		r.reals[1] = &value
	case "disk_percent":
		r.reals[2] = &value
	case "network_rx_bytes":
		return r.count(0, value, 0)
	case "network_tx_bytes":
		return r.count(1, value, 0)
	case "active_services":
		return r.count(2, value, -mostExact)
	case "failed_services":
		return r.count(3, value, -mostExact)
	case "total_services":
		return r.count(4, value, -mostExact)
	case "llm_requests":
		return r.count(5, value, 0)
	case "active_users":
		return r.count(6, value, -mostExact)
	case "total_users":
		return r.count(7, value, -mostExact)
	case costName:
		if value < 0 || value > mostCost {
			return false
		}
		r.cost = decimal(value)
	default:
		return false
	}
	return true
}

// mostExact bounds the whole numbers that a double holds exactly: larger ones may not be what was said.
const mostExact = 1 << 53

func (r *metricRow) count(i int, value, least float64) bool {
	if value != math.Trunc(value) || value < least || value > mostExact {
		return false
	}
	whole := int64(value)
	r.counts[i] = &whole
	return true
}

// What is taken for an amount of money.
const (
	mostCost   = 1e12
	mostPlaces = 30
)

// decimal is the shortest number that reads as the same double, which is what was said, to 30 places at most.
func decimal(value float64) string {
	text := strconv.FormatFloat(math.Abs(value), 'f', -1, 64)
	if point := strings.IndexByte(text, '.'); point >= 0 && len(text)-point > mostPlaces+1 {
		text = strconv.FormatFloat(math.Abs(value), 'f', mostPlaces, 64)
	}
	return text
}

// sortMetrics brings rows into the order of their key, the first of each key. Messages of samples have none and stay all.
func sortMetrics(batch []metricRow) []metricRow {
	key := func(a, b metricRow) int {
		return cmp.Or(slices.Compare(a.CheckID[:], b.CheckID[:]), cmp.Compare(a.Location, b.Location), a.ScheduledAt.Compare(b.ScheduledAt))
	}
	slices.SortStableFunc(batch, key)
	return slices.CompactFunc(batch, func(a, b metricRow) bool { return a.CheckID != uuid.Nil && key(a, b) == 0 })
}

// try is one transaction: the rows, and the samples.
func (w *MetricWriter) try(ctx context.Context, batch []metricRow, conflicts bool) (rows, samples int, err error) {
	mode, err := w.store.Mode(ctx)
	if err != nil {
		return 0, 0, err
	}
	// The nil check sorts first: what has samples only stands before what has rows.
	first := slices.IndexFunc(batch, func(r metricRow) bool { return r.CheckID != uuid.Nil })
	if first < 0 {
		first = len(batch)
	}
	facts := batch[first:]
	var figures []*Sample
	for i := range batch {
		for j := range batch[i].Samples {
			figures = append(figures, &batch[i].Samples[j])
		}
	}
	err = InTx(ctx, w.store, 0, func(ctx context.Context, tx pgx.Tx) error {
		if rows, err = w.writeFacts(ctx, tx, facts, conflicts, mode); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
		samples, err = writeSamples(ctx, tx, &w.encoder, figures, conflicts, mode)
		return err
	})
	return rows + first, samples, err
}

func (w *MetricWriter) writeFacts(ctx context.Context, tx pgx.Tx, facts []metricRow, conflicts bool, mode Mode) (int, error) {
	if len(facts) == 0 {
		return 0, nil
	}
	at := func(i int) time.Time { return facts[i].ScheduledAt }
	if err := logRollup(ctx, tx, mode, "server_metrics_5m", 5*time.Minute, len(facts), at); err != nil {
		return 0, err
	}
	if conflicts {
		return insertMetrics(ctx, tx, facts)
	}
	return w.encoder.copyRows(ctx, tx, copyMetricsSQL, len(facts), func(b []byte, i int) []byte { return appendMetric(b, &facts[i]) })
}
