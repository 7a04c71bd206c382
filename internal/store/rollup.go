package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// RollupLease is the lease under which [Store.Rollup] runs.
const RollupLease = "rollup"

const (
	// rollupGrace is how long after its end a bucket is first rolled up: what comes as it should is there then.
	rollupGrace = 30 * time.Second
	// rollupTimeout bounds one transaction of the roll-up. A bucket is all servers, and more than one statement's worth
	// of time elsewhere.
	rollupTimeout = 2 * time.Minute
	// rollupBuckets is how many buckets one transaction takes.
	rollupBuckets = 12
)

// manyRowsSQL lets a transaction sort the rows of a whole fleet in memory.
const manyRowsSQL = `SET LOCAL work_mem = '64MB'`

// rollup is one step from smaller buckets, or rows, to larger ones. In the order of the list each is made of what the
// ones before have stored.
type rollup struct {
	name  string
	width time.Duration
	// of is the roll-up that it is made of; empty: rows.
	of string
	// next is the roll-up made of this one; empty: none.
	next      string
	nextWidth time.Duration
}

func rollups() []rollup {
	return []rollup{
		{name: "server_metrics_5m", width: 5 * time.Minute, next: "server_metrics_1h", nextWidth: time.Hour},
		{name: "server_metrics_1h", width: time.Hour, of: "server_metrics_5m", next: "server_metrics_1d", nextWidth: 24 * time.Hour},
		{name: "server_metrics_1d", width: 24 * time.Hour, of: "server_metrics_1h"},
		{name: "system_metrics_hourly", width: time.Hour},
	}
}

// logRollup notes, in the transaction of rows, the buckets that they belong to. TimescaleDB keeps such a log itself.
func logRollup(ctx context.Context, tx pgx.Tx, mode Mode, name string, width time.Duration, n int, at func(i int) time.Time) error {
	if mode == ModeTimescale {
		return nil
	}
	var buckets []time.Time
	seen := map[int64]bool{}
	for i := range n {
		bucket := at(i).UTC().Truncate(width)
		if !seen[bucket.Unix()] {
			seen[bucket.Unix()] = true
			buckets = append(buckets, bucket)
		}
	}
	_, err := tx.Exec(ctx, `INSERT INTO rollup_log (rollup, bucket) SELECT $1, unnest($2::timestamptz[])`, name, buckets)
	if err != nil {
		return fmt.Errorf("log roll-up %s: %w", name, err)
	}
	return nil
}

// Rollup brings the roll-ups of plain mode up to an instant, in short transactions that block no writer, and returns how
// many buckets it made. It may run at any time, again, or after any pause: what it has to do is in rollup_log, which has
// an entry for every batch of rows, in the transaction of the rows. So a late row, or one whose transaction ended late,
// makes its bucket be made anew, whenever it comes. Until then readers see the bucket without it; buckets that were
// never rolled up are read from the rows themselves.
//
// The error matches [ErrLeaseLost] when another process has taken over the lease, which must be RollupLease. On
// TimescaleDB continuous aggregates do this, and Rollup does nothing.
func (s *Store) Rollup(ctx context.Context, lease Lease, now time.Time) (buckets int, err error) {
	mode, err := s.Mode(ctx)
	if err != nil || mode == ModeTimescale {
		return 0, err
	}
	for _, r := range rollups() {
		for {
			n, more, err := s.rollOnce(ctx, lease, r, now)
			buckets += n
			if err != nil {
				return buckets, fmt.Errorf("roll up %s: %w", r.name, err)
			}
			if !more {
				break
			}
		}
	}
	return buckets, nil
}

// rollOnce takes the oldest buckets of the log that have ended, and says whether there are more.
func (s *Store) rollOnce(ctx context.Context, lease Lease, r rollup, now time.Time) (n int, more bool, err error) {
	var buckets []time.Time
	work := func(ctx context.Context, tx pgx.Tx) error {
		if err := holdLease(ctx, tx, lease); err != nil {
			return err
		}
		until, err := rollableUntil(ctx, tx, r, now)
		if err != nil {
			return err
		}
		if buckets, err = takeLog(ctx, tx, r, until); err != nil {
			return err
		}
		for _, bucket := range buckets {
			if _, err := tx.Exec(ctx, `SELECT picket_roll_`+r.name+`($1)`, bucket); err != nil {
				return fmt.Errorf("bucket %s: %w", bucket.Format(time.RFC3339), err)
			}
		}
		if more, err = moveRolled(ctx, tx, r, until); err != nil || r.next == "" || len(buckets) == 0 {
			return err
		}
		return logRollup(ctx, tx, ModePlain, r.next, r.nextWidth, len(buckets), func(i int) time.Time { return buckets[i] })
	}
	for attempt := 1; ; attempt++ {
		err = InTx(ctx, s, rollupTimeout, func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, fmt.Sprintf(`SET LOCAL statement_timeout = %d;`, rollupTimeout.Milliseconds())+manyRowsSQL); err != nil {
				return err
			}
			return work(ctx, tx)
		})
		switch {
		case err == nil:
			return len(buckets), more, nil
		case attempt == retries:
			return 0, false, err
		case Classify(err) == NoPartition:
			for _, bucket := range buckets {
				if err := s.makePartition(ctx, partitionOf(r.name+"_stored", bucket)); err != nil {
					return 0, false, err
				}
			}
		case Classify(err) != Retry:
			return 0, false, err
		}
	}
}

// rollableUntil is the end of the last bucket that can be rolled up: it has ended, and what it is made of is there.
func rollableUntil(ctx context.Context, tx pgx.Tx, r rollup, now time.Time) (time.Time, error) {
	until := now.Add(-rollupGrace)
	if r.of != "" {
		var made *time.Time
		err := tx.QueryRow(ctx, `SELECT nullif(rolled_until, '-infinity') FROM rollup_state WHERE rollup = $1`, r.of).Scan(&made)
		switch {
		case err != nil:
			return time.Time{}, fmt.Errorf("read roll-up %s: %w", r.of, err)
		case made == nil:
			return time.Time{}, nil
		}
		until = *made
	}
	return until.UTC().Truncate(r.width), nil
}

// takeLog removes the entries of the oldest buckets from the log. Entries of transactions that have not ended are not
// seen, and stay for the next time.
func takeLog(ctx context.Context, tx pgx.Tx, r rollup, until time.Time) ([]time.Time, error) {
	rows, err := tx.Query(ctx, `
		WITH taken AS (
		    DELETE FROM rollup_log WHERE rollup = $1 AND bucket IN (
		        SELECT DISTINCT bucket FROM rollup_log WHERE rollup = $1 AND bucket < $2 ORDER BY bucket LIMIT $3)
		    RETURNING bucket)
		SELECT DISTINCT bucket FROM taken ORDER BY bucket`, r.name, until, rollupBuckets)
	if err != nil {
		return nil, fmt.Errorf("take log: %w", err)
	}
	buckets, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	if err != nil {
		return nil, fmt.Errorf("take log: %w", err)
	}
	return buckets, nil
}

// moveRolled says up to where readers may go by what is stored: the oldest bucket that is still in the log, and never
// back, since a bucket that was stored once is there.
func moveRolled(ctx context.Context, tx pgx.Tx, r rollup, until time.Time) (more bool, err error) {
	var oldest *time.Time
	err = tx.QueryRow(ctx, `SELECT min(bucket) FROM rollup_log WHERE rollup = $1 AND bucket < $2`, r.name, until).Scan(&oldest)
	if err != nil {
		return false, fmt.Errorf("look into log: %w", err)
	}
	if oldest != nil {
		until = *oldest
	}
	if until.IsZero() {
		return false, nil
	}
	_, err = tx.Exec(ctx, `UPDATE rollup_state SET rolled_until = $2 WHERE rollup = $1 AND rolled_until < $2`, r.name, until)
	if err != nil {
		return false, fmt.Errorf("move roll-up: %w", err)
	}
	return oldest != nil, nil
}
