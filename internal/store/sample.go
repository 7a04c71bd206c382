package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Sample is one row of system_metrics: a figure of one part at an instant. Its identity is the organization, service,
// name and tags, with the time.
type Sample struct {
	Org     string
	Name    string
	Service string
	// Tags is a JSON object with sorted keys, as [Tags] makes it; empty: none.
	Tags  string
	Time  time.Time
	Value float64
}

// Tags is the form of tags that a [Sample] has: the same tags are the same text.
func Tags(tags map[string]string) string {
	if len(tags) == 0 {
		return ""
	}
	text, err := json.Marshal(tags)
	if err != nil {
		return "" // not with strings
	}
	return string(text)
}

const (
	samplesTable    = "system_metrics"
	sampleColumns   = `series, time, value, org, metric_name, service, tags`
	copySamplesSQL  = `COPY system_metrics (` + sampleColumns + `) FROM STDIN (FORMAT binary)`
	writeSamplesSQL = `
INSERT INTO system_metrics (` + sampleColumns + `)
SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::double precision[], $4::text[], $5::text[], $6::text[], $7::jsonb[])
ON CONFLICT (metric_name, service, time, series) DO NOTHING`
)

// sampleRow is a sample with its series.
type sampleRow struct {
	*Sample
	series uuid.UUID
	place  int // among those that were given
}

// seriesOf tells figures apart that share their name and service. It is no secret, but nobody shall be able to make one
// figure hide another's.
func seriesOf(s *Sample) uuid.UUID {
	var b []byte
	for _, part := range []string{s.Org, s.Service, s.Name, s.Tags} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	sum := sha256.Sum256(b)
	return uuid.UUID(sum[:16])
}

// sortSamples brings samples into the order of their key, the first of each key. What is no number says nothing.
func sortSamples(samples []*Sample) []sampleRow {
	rows := make([]sampleRow, 0, len(samples))
	for i, s := range samples {
		if !math.IsNaN(s.Value) && !math.IsInf(s.Value, 0) {
			rows = append(rows, sampleRow{Sample: s, series: seriesOf(s), place: i})
		}
	}
	// The place makes every two differ, so that the sort needs not be stable: that one took twice as long.
	slices.SortFunc(rows, func(a, b sampleRow) int { return cmp.Or(a.compareKey(&b), cmp.Compare(a.place, b.place)) })
	return slices.CompactFunc(rows, func(a, b sampleRow) bool { return a.compareKey(&b) == 0 })
}

// compareKey is the order of the table's key. Most samples differ early in it, so nothing is compared that need not be.
func (r *sampleRow) compareKey(other *sampleRow) int {
	if c := strings.Compare(r.Name, other.Name); c != 0 {
		return c
	}
	if c := strings.Compare(r.Service, other.Service); c != 0 {
		return c
	}
	if c := r.Time.Compare(other.Time); c != 0 {
		return c
	}
	return bytes.Compare(r.series[:], other.series[:])
}

func appendSample(b []byte, s *sampleRow) []byte {
	b = binary.BigEndian.AppendUint16(b, 7)
	b = appendUUID(b, s.series)
	b = appendTime(b, s.Time)
	b = appendInt64(b, int64(math.Float64bits(s.Value)))
	b = appendText(b, s.Org)
	b = appendText(b, s.Name)
	b = appendText(b, s.Service)
	return appendJSON(b, []byte(cmp.Or(s.Tags, "{}")))
}

// writeSamples adds samples to a transaction and returns how many are new. conflicts says that some may be there.
func writeSamples(ctx context.Context, tx pgx.Tx, encoder *copyEncoder, samples []*Sample, conflicts bool, mode Mode) (int, error) {
	rows := sortSamples(samples)
	if len(rows) == 0 {
		return 0, nil
	}
	if err := logRollup(ctx, tx, mode, "system_metrics_hourly", time.Hour, len(rows), func(i int) time.Time { return rows[i].Time }); err != nil {
		return 0, err
	}
	if !conflicts {
		n, err := encoder.copyRows(ctx, tx, copySamplesSQL, len(rows), func(b []byte, i int) []byte { return appendSample(b, &rows[i]) })
		if err != nil {
			return 0, fmt.Errorf("samples: %w", err)
		}
		return n, nil
	}
	var (
		series                   = make([]uuid.UUID, len(rows))
		times                    = make([]time.Time, len(rows))
		values                   = make([]float64, len(rows))
		orgs, names, services, t = make([]string, len(rows)), make([]string, len(rows)), make([]string, len(rows)), make([]string, len(rows))
	)
	for i, r := range rows {
		series[i], times[i], values[i] = r.series, r.Time, r.Value
		orgs[i], names[i], services[i], t[i] = r.Org, r.Name, r.Service, cmp.Or(r.Tags, "{}")
	}
	tag, err := tx.Exec(ctx, writeSamplesSQL, series, times, values, orgs, names, services, t)
	if err != nil {
		return 0, fmt.Errorf("insert samples: %w", err)
	}
	return int(tag.RowsAffected()), nil
}
