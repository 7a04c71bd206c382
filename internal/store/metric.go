package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
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
	facts := make([]metricFacts, len(rows))
	batch := make([]metricRow, 0, len(rows))
	for i := range rows {
		if w.results.states.isForeign(stateKey{rows[i].CheckID, rows[i].Location}, rows[i].Org) {
			written.Refused = append(written.Refused, Refused{Row: i, Err: ErrForeign})
			continue
		}
		if err := facts[i].read(&rows[i]); err != nil {
			written.Refused = append(written.Refused, Refused{Row: i, Err: err})
			continue
		}
		batch = append(batch, newMetricRow(&facts[i], i))
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

// metricRow is a row and where it stood in the caller's batch. It is small and has the check's id as two numbers, since
// sorting moves and compares rows; see [batchRow].
type metricRow struct {
	*metricFacts
	high, low uint64
	index     int
}

func newMetricRow(facts *metricFacts, index int) metricRow {
	id := facts.CheckID
	return metricRow{metricFacts: facts, index: index, high: binary.BigEndian.Uint64(id[:8]), low: binary.BigEndian.Uint64(id[8:])}
}

// metricFacts is a metric in the form of its columns.
type metricFacts struct {
	*Metric
	reals  [3]float64 // percentages
	counts [8]int64
	// There are those whose bit is set.
	realsThere, countsThere uint8
	cost                    string // decimal; empty: none
	extra                   []byte
}

// read puts the figures of a metric into the columns.
func (f *metricFacts) read(m *Metric) error {
	f.Metric = m
	if m.CheckID == uuid.Nil {
		return nil
	}
	var others [8]string // without an allocation for so many
	rest := others[:0]
	for name, value := range m.Values {
		if !f.take(name, value) {
			rest = append(rest, name)
		}
	}
	if len(m.Extra) == 0 && len(rest) == 0 {
		return nil
	}
	var err error
	if f.extra, err = extraOf(m, rest); err != nil {
		return fmt.Errorf("extra: %w", err)
	}
	return nil
}

// extraOf is the JSON object of what is no figure and of the named figures, which have no column.
func extraOf(m *Metric, names []string) ([]byte, error) {
	slices.Sort(names)
	if len(m.Extra) > 0 {
		rest := make(map[string]json.RawMessage)
		if err := json.Unmarshal(m.Extra, &rest); err != nil {
			return nil, err
		}
		for _, name := range names {
			value, err := appendNumber(nil, m.Values[name])
			if err != nil {
				return nil, fmt.Errorf("figure %q: %w", name, err)
			}
			rest[name] = value
		}
		if len(rest) == 0 {
			return nil, nil
		}
		return json.Marshal(rest)
	}
	// By hand: most servers show a few figures more, and a map for each took as long as the database does.
	object := append(make([]byte, 0, 64), '{')
	for i, name := range names {
		if i > 0 {
			object = append(object, ',')
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		object = append(append(object, quoted...), ':')
		if object, err = appendNumber(object, m.Values[name]); err != nil {
			return nil, fmt.Errorf("figure %q: %w", name, err)
		}
	}
	return append(object, '}'), nil
}

// errNoNumber is why a figure cannot be said in JSON.
var errNoNumber = errors.New("not a finite number")

// appendNumber writes a figure as JSON.
func appendNumber(b []byte, value float64) ([]byte, error) {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return nil, errNoNumber
	}
	return strconv.AppendFloat(b, value, 'g', -1, 64), nil
}

// take puts a figure into its column, when it has one and fits.
func (f *metricFacts) take(name string, value float64) bool {
	switch name {
	case "cpu_percent":
		return f.real(0, value)
	case "memory_percent":
		return f.real(1, value)
	case "disk_percent":
		return f.real(2, value)
	case "network_rx_bytes":
		return f.count(0, value, 0)
	case "network_tx_bytes":
		return f.count(1, value, 0)
	case "active_services":
		return f.count(2, value, -mostExact)
	case "failed_services":
		return f.count(3, value, -mostExact)
	case "total_services":
		return f.count(4, value, -mostExact)
	case "llm_requests":
		return f.count(5, value, 0)
	case "active_users":
		return f.count(6, value, -mostExact)
	case "total_users":
		return f.count(7, value, -mostExact)
	case costName:
		if value < 0 || value > mostCost {
			return false
		}
		f.cost = decimal(value)
	default:
		return false
	}
	return true
}

func (f *metricFacts) real(i int, value float64) bool {
	f.reals[i] = value
	f.realsThere |= 1 << i
	return true
}

// mostExact bounds the whole numbers that a double holds exactly: larger ones may not be what was said.
const mostExact = 1 << 53

func (f *metricFacts) count(i int, value, least float64) bool {
	if value != math.Trunc(value) || value < least || value > mostExact {
		return false
	}
	f.counts[i] = int64(value)
	f.countsThere |= 1 << i
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

// compareKeys is the order of the table's key, in which every transaction of ours touches rows; see the one of [batchRow].
func (r *metricRow) compareKeys(other *metricRow) int {
	switch {
	case r.high != other.high:
		return cmp.Compare(r.high, other.high)
	case r.low != other.low:
		return cmp.Compare(r.low, other.low)
	case r.Location != other.Location:
		return strings.Compare(r.Location, other.Location)
	}
	return r.ScheduledAt.Compare(other.ScheduledAt)
}

// sortMetrics brings rows into the order of their key, the first of each key. Messages of samples have none and stay all.
func sortMetrics(batch []metricRow) []metricRow {
	slices.SortFunc(batch, func(a, b metricRow) int {
		if c := a.compareKeys(&b); c != 0 {
			return c
		}
		return cmp.Compare(a.index, b.index)
	})
	return slices.CompactFunc(batch, func(a, b metricRow) bool { return a.CheckID != uuid.Nil && a.compareKeys(&b) == 0 })
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
