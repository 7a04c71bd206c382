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
	// ResultRetention is how long results are kept; the retention policy of the hypertable says the same.
	ResultRetention = 400 * 24 * time.Hour

	resultsTable = "server_health_checks"
	// partitionLock is the advisory lock under which partitions are made.
	partitionLock = 0x7069636b6574 // "picket"
)

// Partition is a month of server_health_checks in plain mode.
type Partition struct {
	Name     string // server_health_checks_2026_11
	From, To time.Time
	Present  bool
}

// partitionOf is the month that an instant belongs to, in UTC.
func partitionOf(at time.Time) Partition {
	at = at.UTC()
	from := time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, time.UTC)
	return Partition{
		Name: fmt.Sprintf("%s_%04d_%02d", resultsTable, from.Year(), from.Month()),
		From: from,
		To:   from.AddDate(0, 1, 0),
	}
}

// wanted are the months that must be there at an instant.
func wanted(now time.Time) []Partition {
	partitions := []Partition{partitionOf(now)}
	for range MonthsAhead {
		partitions = append(partitions, partitionOf(partitions[len(partitions)-1].To))
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
	partitions := wanted(now)
	for i := range partitions {
		if partitions[i].Present, err = attached(ctx, s.pool, partitions[i].Name); err != nil {
			return nil, err
		}
	}
	return partitions, nil
}

// EnsurePartitions makes the months that [Store.Partitions] wants and does not find, and drops those that ended longer
// ago than [ResultRetention]. Processes that call it at once take turns.
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
	if len(partitions) == 0 {
		return nil // TimescaleDB's own policy does the rest
	}
	return s.dropExpired(ctx, now.Add(-ResultRetention))
}

// dropExpired drops the months that ended before an instant. Tables that do not have our names are not ours.
func (s *Store) dropExpired(ctx context.Context, before time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 2*TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass($1)`, resultsTable)
	if err != nil {
		return fmt.Errorf("list partitions: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list partitions: %w", err)
	}
	for _, name := range names {
		month, err := time.Parse(resultsTable+"_2006_01", name)
		if err != nil || partitionOf(month).To.After(before) {
			continue
		}
		err = s.underPartitionLock(ctx, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `DROP TABLE IF EXISTS `+pgx.Identifier{name}.Sanitize())
			return err
		})
		if err != nil {
			return fmt.Errorf("drop partition %s: %w", name, err)
		}
		s.log.InfoContext(ctx, "results older than their retention dropped", "partition", name)
	}
	return nil
}

// ensurePartitionsOf makes the months of the rows, which may be past ones. What may be in a row is bounded by the
// contract of results, and so is what is made here.
func (s *Store) ensurePartitionsOf(ctx context.Context, batch []batchRow) error {
	made := map[string]bool{}
	for i := range batch {
		partition := partitionOf(batch[i].ScheduledAt)
		if made[partition.Name] {
			continue
		}
		made[partition.Name] = true
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
	there, err := attached(ctx, tx, p.Name)
	if err != nil || there {
		return err
	}
	name := pgx.Identifier{p.Name}.Sanitize()
	// A table of the name that is not attached is left over from a detach by hand: its rows are shown again.
	_, err = tx.Exec(ctx, fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)`,
		name, resultsTable))
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, fmt.Sprintf(`ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')`,
		resultsTable, name, p.From.Format(time.RFC3339), p.To.Format(time.RFC3339)))
	return err
}

// querier is a pool, a connection or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func attached(ctx context.Context, q querier, partition string) (bool, error) {
	var there bool
	err := q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_inherits WHERE inhparent = to_regclass($1) AND inhrelid = to_regclass($2))`,
		resultsTable, partition).Scan(&there)
	if err != nil {
		return false, fmt.Errorf("look for partition %s: %w", partition, err)
	}
	return there, nil
}
