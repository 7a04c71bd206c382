package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// metricColumns is the order of columns in COPY and in the arrays.
const metricColumns = `check_id, server_id, scheduled_at, stream_epoch, stream_seq, cpu_percent, memory_percent, disk_percent,
    network_rx_bytes, network_tx_bytes, active_services, failed_services, total_services, llm_requests, active_users,
    total_users, on_demand, org, location, llm_cost_usd, extra`

const (
	metricColumnCount = 21
	copyMetricsSQL    = `COPY server_metrics_aggregated (` + metricColumns + `) FROM STDIN (FORMAT binary)`
	insertMetricsSQL  = `
INSERT INTO server_metrics_aggregated (` + metricColumns + `)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::bigint[], $5::bigint[],
    $6::double precision[], $7::double precision[], $8::double precision[],
    $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[],
    $17::boolean[], $18::text[], $19::text[], $20::text[]::numeric[], $21::jsonb[])
ON CONFLICT (check_id, location, scheduled_at) DO NOTHING`
)

func appendMetric(b []byte, r *metricRow) []byte {
	b = binary.BigEndian.AppendUint16(b, metricColumnCount)
	b = appendUUID(b, r.CheckID)
	b = appendUUID(b, r.ServerID)
	b = appendTime(b, r.ScheduledAt)
	b = appendInt64(b, r.StreamEpoch)
	b = appendInt64(b, r.StreamSeq)
	for i, real := range r.reals {
		if r.realsThere&(1<<i) == 0 {
			b = appendNull(b)
		} else {
			b = appendInt64(b, int64(math.Float64bits(real)))
		}
	}
	for i, count := range r.counts {
		if r.countsThere&(1<<i) == 0 {
			b = appendNull(b)
		} else {
			b = appendInt64(b, count)
		}
	}
	b = appendBool(b, r.OnDemand)
	b = appendText(b, r.Org)
	b = appendText(b, r.Location)
	b = appendDecimal(b, r.cost)
	return appendJSON(b, r.extra)
}

// insertMetrics is the way for batches of which some rows may be there.
func insertMetrics(ctx context.Context, tx pgx.Tx, rows []metricRow) (int, error) {
	n := len(rows)
	checks, servers := make([]uuid.UUID, n), make([]uuid.UUID, n)
	times, epochs, seqs := make([]time.Time, n), make([]int64, n), make([]int64, n)
	demand, orgs, locations := make([]bool, n), make([]string, n), make([]string, n)
	costs, extras := make([]*string, n), make([]*string, n)
	var reals [3][]*float64
	var counts [8][]*int64
	for i := range rows {
		r := &rows[i]
		checks[i], servers[i], times[i] = r.CheckID, r.ServerID, r.ScheduledAt
		epochs[i], seqs[i] = r.StreamEpoch, r.StreamSeq
		demand[i], orgs[i], locations[i] = r.OnDemand, r.Org, r.Location
		costs[i], extras[i] = nullText(r.cost), nullJSON(r.extra)
		for j := range reals {
			reals[j] = append(reals[j], there(r.realsThere, j, &r.reals[j]))
		}
		for j := range counts {
			counts[j] = append(counts[j], there(r.countsThere, j, &r.counts[j]))
		}
	}
	tag, err := tx.Exec(ctx, insertMetricsSQL, checks, servers, times, epochs, seqs,
		reals[0], reals[1], reals[2], counts[0], counts[1], counts[2], counts[3], counts[4], counts[5], counts[6], counts[7],
		demand, orgs, locations, costs, extras)
	if err != nil {
		return 0, fmt.Errorf("insert: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

// there is nil for a value whose bit is not set.
func there[V any](bits uint8, i int, value *V) *V {
	if bits&(1<<i) == 0 {
		return nil
	}
	return value
}
