package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// MonthsAhead is how many months after the present one always have a partition.
	MonthsAhead = 2

	resultsTable = "server_health_checks"
	// partitionLock is the advisory lock under which partitions are made.
	partitionLock = 0x7069636b6574 // "picket"
)

// partitioned are the tables that plain mode keeps in months.
func partitioned() []string {
	return []string{
		resultsTable, metricsTable, samplesTable,
		"server_metrics_5m_stored", "server_metrics_1h_stored", "server_metrics_1d_stored", "system_metrics_hourly_stored",
	}
}

// Partition is a month of a table in plain mode.
type Partition struct {
	Table    string
	Name     string // server_health_checks_2026_11
	From, To time.Time
	Present  bool
}

// partitionOf is the month of a table that an instant belongs to, in UTC.
func partitionOf(table string, at time.Time) Partition {
	at = at.UTC()
	from := time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, time.UTC)
	return Partition{
		Table: table,
		Name:  fmt.Sprintf("%s_%04d_%02d", table, from.Year(), from.Month()),
		From:  from,
		To:    from.AddDate(0, 1, 0),
	}
}

// wanted are the months that must be there at an instant.
func wanted(now time.Time) []Partition {
	var partitions []Partition
	for _, table := range partitioned() {
		next := now
		for range 1 + MonthsAhead {
			partition := partitionOf(table, next)
			partitions = append(partitions, partition)
			next = partition.To
		}
	}
	return partitions
}

// Partitions reports on the months that must be there at an instant: its own and the next two. TimescaleDB makes its
// chunks itself; the answer is empty then.
func (s *Store) Partitions(ctx context.Context, now time.Time) ([]Partition, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	mode, err := s.Mode(ctx)
	if err != nil || mode == ModeTimescale {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, `SELECT inhrelid::regclass::text FROM pg_inherits
		WHERE inhparent IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS t (name))`, partitioned())
	if err != nil {
		return nil, fmt.Errorf("look for partitions: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for partitions: %w", err)
	}
	present := make(map[string]bool, len(names))
	for _, name := range names {
		present[name] = true
	}
	partitions := wanted(now)
	for i := range partitions {
		partitions[i].Present = present[partitions[i].Name]
	}
	return partitions, nil
}

// EnsurePartitions makes the months that [Store.Partitions] wants and does not find. Processes that call it at once take
// turns.
func (s *Store) EnsurePartitions(ctx context.Context, now time.Time) error {
	partitions, err := s.Partitions(ctx, now)
	if err != nil {
		return fmt.Errorf("ensure partitions: %w", err)
	}
	for _, partition := range partitions {
		if partition.Present {
			continue
		}
		if err := s.makePartition(ctx, partition); err != nil {
			return err
		}
	}
	return nil
}

// makePartition creates a table of its own and attaches it: unlike PARTITION OF that waits for no reader of the other
// months.
func (s *Store) makePartition(ctx context.Context, p Partition) error {
	err := s.underPartitionLock(ctx, func(ctx context.Context, tx pgx.Tx) error { return createPartition(ctx, tx, p) })
	if err != nil {
		return fmt.Errorf("make partition %s: %w", p.Name, err)
	}
	s.log.InfoContext(ctx, "partition ready", "partition", p.Name)
	return nil
}

// underPartitionLock changes partitions one process at a time. Whoever it has to wait for, it waits two seconds at most,
// so that nobody queues up behind it for longer, and tries again.
func (s *Store) underPartitionLock(ctx context.Context, change func(ctx context.Context, tx pgx.Tx) error) error {
	return retried(ctx, s, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '2s'`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(partitionLock)); err != nil {
			return err
		}
		return change(ctx, tx)
	})
}

func createPartition(ctx context.Context, tx pgx.Tx, p Partition) error {
	there, err := attached(ctx, tx, p)
	if err != nil || there {
		return err
	}
	name := pgx.Identifier{p.Name}.Sanitize()
	// A table of the name that is not attached is left over from a detach by hand: its rows are shown again.
	_, err = tx.Exec(ctx, fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)`,
		name, p.Table))
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, fmt.Sprintf(`ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')`,
		p.Table, name, p.From.Format(time.RFC3339), p.To.Format(time.RFC3339)))
	return err
}

// querier is a pool, a connection or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func attached(ctx context.Context, q querier, p Partition) (bool, error) {
	var there bool
	err := q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_inherits WHERE inhparent = to_regclass($1) AND inhrelid = to_regclass($2))`,
		p.Table, p.Name).Scan(&there)
	if err != nil {
		return false, fmt.Errorf("look for partition %s: %w", p.Name, err)
	}
	return there, nil
}
