package store

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// ColumnType says what the values of a column of an export are.
type ColumnType int

// The types of columns. A value that is not there is nil, whatever the type.
const (
	ColumnText  ColumnType = iota // string
	ColumnInt                     // int64
	ColumnFloat                   // float64
	ColumnBool                    // bool
	ColumnTime                    // time.Time, UTC, microseconds
	ColumnJSON                    // string, JSON
)

// ExportColumn is a column of an export.
type ExportColumn struct {
	Name string
	Type ColumnType

	sql string // what it is selected by
}

// exportSource is where the rows of a type of export come from.
type exportSource struct {
	// columns, in order; those with sql are selected by the query of the rows.
	columns func(f ExportFilters) []ExportColumn
	// filters are the fields that mean something, besides the time.
	filters []string
	// span is the relative time range when none is given; empty: the rows have no time.
	span string
	// statuses are the words of the filter status.
	statuses []string
	// knowsMetric is a query that has a row when the organization $1 has the metric a.
	knowsMetric string
	stream      func(ctx context.Context, tx pgx.Tx, e Export, columns []ExportColumn, row func(values []any) error) error
}

var exportSources = map[string]exportSource{
	"servers":        serversSource,
	"health_checks":  healthChecksSource,
	"metrics":        metricsSource,
	"system_metrics": systemMetricsSource,
	"alerts":         alertsSource,
	"audit":          auditSource,
}

// ExportTypes are the types of exports, in order.
func ExportTypes() []string { return slices.Sorted(maps.Keys(exportSources)) }

// ExportColumns are the columns of a type of export with filters.
func ExportColumns(exportType string, filters ExportFilters) ([]ExportColumn, error) {
	source, known := exportSources[exportType]
	if !known {
		return nil, fmt.Errorf("export type %q: %w", exportType, ErrNotFound)
	}
	return source.columns(filters), nil
}

// exportReader begins the application_name of a session that reads an export; its id and attempt follow.
const exportReader = "picket export "

// StreamExport calls row with every row of an export, in order and all of one snapshot. It holds one row in memory at a
// time, and takes as long as row takes and ctx allows. values is used again after row returns. The error of row is
// returned as it is.
func (s *Store) StreamExport(ctx context.Context, e Export, row func(values []any) error) error {
	source, known := exportSources[e.Type]
	if !known {
		return fmt.Errorf("export type %q: %w", e.Type, ErrNotFound)
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("stream export: acquire connection: %w", err)
	}
	defer conn.Release()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return fmt.Errorf("stream export: begin: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
		defer cancel()
		if err := tx.Rollback(closing); err != nil {
			_ = conn.Conn().Close(closing)
		}
	}()
	// A reader that is slow is not idle, and a long answer is no statement that hangs: the caller's ctx is the limit. One
	// process reads: several would each hold memory of the server for as long as the slowest reader takes. The name is for
	// EndStaleReads.
	_, err = tx.Exec(ctx, `SELECT set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '5min', true),
		set_config('max_parallel_workers_per_gather', '0', true), set_config('application_name', $1, true)`,
		fmt.Sprintf("%s%s/%d", exportReader, e.ID, e.Attempt))
	if err != nil {
		return fmt.Errorf("stream export: %w", err)
	}
	return source.stream(ctx, tx, e, source.columns(e.Filters), row)
}

// pickedServers are the names of the servers that the filters pick: parameters organization, servers, groups, tags.
const pickedServers = `
    SELECT s.name FROM managed_servers s WHERE s.org = $1 AND ($2::text[] IS NULL OR s.name = ANY ($2))
      AND ($3::text[] IS NULL OR s.id IN (SELECT m.server_id FROM v_group_members m JOIN server_groups g ON g.id = m.group_id
                                          WHERE g.org = $1 AND g.name = ANY ($3)))
      AND ($4::text[] IS NULL OR s.tags @> $4)`

// anyServer is true when the filters pick no servers.
const anyServer = `($2::text[] IS NULL AND $3::text[] IS NULL AND $4::text[] IS NULL)`

func serverArgs(e Export) []any {
	return []any{e.Org, e.Filters.Servers, e.Filters.Groups, e.Filters.Tags}
}

// streamQuery calls row with every row of a query that selects the columns.
func streamQuery(ctx context.Context, tx pgx.Tx, columns []ExportColumn, row func([]any) error, sql string, args ...any) error {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return fmt.Errorf("stream export: %w", err)
	}
	defer rows.Close()
	scan := newRowScan(columns)
	for rows.Next() {
		if err := scan.next(rows); err != nil {
			return err
		}
		if err := row(scan.values); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("stream export: %w", err)
	}
	return nil
}

// selectList is what a query selects for the columns that have sql.
func selectList(columns []ExportColumn) string {
	list := ""
	for _, c := range columns {
		if c.sql == "" {
			continue
		}
		if list != "" {
			list += ", "
		}
		list += c.sql
	}
	return list
}

// rowScan reads rows into values. The first values may be the caller's, of columns without sql.
type rowScan struct {
	values  []any
	targets []any
	nulls   []func() any
}

func newRowScan(columns []ExportColumn) *rowScan {
	scan := &rowScan{values: make([]any, len(columns))}
	for _, c := range columns {
		if c.sql == "" {
			continue
		}
		var target any
		var value func() any
		switch c.Type {
		case ColumnInt:
			v := &pgtype.Int8{}
			target, value = v, func() any { return present(v.Int64, v.Valid) }
		case ColumnFloat:
			v := &pgtype.Float8{}
			target, value = v, func() any { return present(v.Float64, v.Valid) }
		case ColumnBool:
			v := &pgtype.Bool{}
			target, value = v, func() any { return present(v.Bool, v.Valid) }
		case ColumnTime:
			v := &pgtype.Timestamptz{}
			target, value = v, func() any { return present(v.Time.UTC(), v.Valid && v.InfinityModifier == pgtype.Finite) }
		default:
			v := &pgtype.Text{}
			target, value = v, func() any { return present(v.String, v.Valid) }
		}
		scan.targets, scan.nulls = append(scan.targets, target), append(scan.nulls, value)
	}
	return scan
}

func present[T any](value T, valid bool) any {
	if !valid {
		return nil
	}
	return value
}

func (r *rowScan) next(rows pgx.Rows) error {
	if err := rows.Scan(r.targets...); err != nil {
		return fmt.Errorf("stream export: %w", err)
	}
	first := len(r.values) - len(r.nulls)
	for i, value := range r.nulls {
		r.values[first+i] = value()
	}
	return nil
}

// exportSeries is a check at a location: the history has its rows together.
type exportSeries struct {
	Server, Check, Kind, Location string
	CheckID                       pgtype.UUID
}

const (
	// seriesPage is how many series are in memory at a time.
	seriesPage = 512
	// seriesBatch is how many are asked for in one round trip.
	seriesBatch = 32
)

// streamSeries calls row with every row of the series that the filters pick, one series after the other by server, check
// and location. Their rows lie in the order of the primary key, so that nothing is sorted, and nothing of other series is
// read. The first columns are the series' own: server, check, kind, location. sql has the parameters check id, location,
// organization, from, to, and more. An empty kind is all.
func streamSeries(
	ctx context.Context, tx pgx.Tx, e Export, kind string, columns []ExportColumn, row func([]any) error, sql string, more ...any,
) error {
	var last exportSeries
	for {
		rows, err := tx.Query(ctx, `
			SELECT server, check_name, kind, location, check_id FROM check_states
			WHERE org = $1 AND ($5 = '' OR kind = $5) AND (`+anyServer+` OR server IN (`+pickedServers+`))
			  AND (server, check_name, location, check_id) > ($6, $7, $8, coalesce($9, '00000000-0000-0000-0000-000000000000'::uuid))
			ORDER BY server, check_name, location, check_id LIMIT $10`,
			append(serverArgs(e), kind, last.Server, last.Check, last.Location, last.CheckID, seriesPage)...)
		if err != nil {
			return fmt.Errorf("stream export: list series: %w", err)
		}
		page, err := pgx.CollectRows(rows, pgx.RowToStructByPos[exportSeries])
		if err != nil {
			return fmt.Errorf("stream export: list series: %w", err)
		}
		for part := range slices.Chunk(page, seriesBatch) {
			if err := streamBatch(ctx, tx, e, part, columns, row, sql, more); err != nil {
				return err
			}
		}
		if len(page) < seriesPage {
			return nil
		}
		last = page[len(page)-1]
	}
}

func streamBatch(
	ctx context.Context, tx pgx.Tx, e Export, part []exportSeries, columns []ExportColumn, row func([]any) error, sql string, more []any,
) (err error) {
	batch := &pgx.Batch{}
	for _, s := range part {
		batch.Queue(sql, append([]any{s.CheckID, s.Location, e.Org, e.Filters.From, e.Filters.To}, more...)...)
	}
	results := tx.SendBatch(ctx, batch)
	defer func() {
		if closing := results.Close(); closing != nil && err == nil {
			err = fmt.Errorf("stream export: %w", closing)
		}
	}()
	scan := newRowScan(columns)
	for _, s := range part {
		rows, err := results.Query()
		if err != nil {
			return fmt.Errorf("stream export: %w", err)
		}
		scan.values[0], scan.values[1], scan.values[2], scan.values[3] = s.Server, s.Check, s.Kind, s.Location
		for rows.Next() {
			if err := scan.next(rows); err != nil {
				rows.Close()
				return err
			}
			if err := row(scan.values); err != nil {
				rows.Close()
				return err
			}
		}
		rows.Close()
		if err := rows.Err(); err != nil {
			return fmt.Errorf("stream export: %w", err)
		}
	}
	return nil
}
