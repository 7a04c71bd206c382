package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/picketd/picket/internal/catalog"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const (
	// catalogTimeout bounds reading and changing the catalog: a hundred thousand checks fit on a slow disk.
	catalogTimeout = time.Minute
	// removedServersFor is how long a removed server is still loaded: the stream keeps its event no longer.
	removedServersFor = 25 * time.Hour
	// removedChecksFor is how long a removed check of a living server is.
	removedChecksFor = 10 * time.Minute
	// schedulesFor is how long a version of a schedule is still loaded after the next one came into force.
	schedulesFor = time.Minute
)

// Catalog is what the database holds, all at one instant.
type Catalog struct {
	// Servers are the living ones and those removed lately, by organization and name, their checks by name.
	Servers []catalog.Server
	// Now is that instant by the database's clock, which schedules are made with.
	Now time.Time
}

const serverColumns = `
SELECT s.id::text, s.org, s.name, s.display_name, s.managed_by, s.lifecycle, s.region, s.environment, s.tags,
       coalesce((SELECT array_agg(g.name ORDER BY g.name COLLATE "C") FROM server_group_members m
                 JOIN server_groups g ON g.id = m.group_id
                 WHERE m.server_id = s.id AND m.managed_by = s.managed_by), '{}'),
       s.revision, s.change, s.changed_at, s.description, s.hostname, s.version, s.api_url, s.metadata,
       s.api_token_sealed, s.api_token_hash, s.api_token_previous, s.api_token_previous_until
FROM managed_servers s`

const loadServersSQL = serverColumns + `
WHERE s.removed_at IS NULL OR s.removed_at > now() - $1::interval
ORDER BY s.org, s.name`

const checkColumns = `
SELECT c.server_id::text, c.id::text, c.serial, c.revision, c.name, c.kind, c.interval_ms, c.timeout_ms, c.locations,
       c.priority, c.enabled, c.removed_at IS NOT NULL, c.spec, c.alerts
FROM checks c JOIN managed_servers s ON s.id = c.server_id`

const loadChecksSQL = checkColumns + `
WHERE s.removed_at IS NULL AND (c.removed_at IS NULL OR c.removed_at > now() - $2::interval)
   OR s.removed_at > now() - $1::interval AND c.revision = s.revision
ORDER BY c.server_id, c.name`

// Of each check the version in force a moment ago, and all after it.
const loadSchedulesSQL = `
SELECT check_id::text, revision, interval_ms, effective_at, locations FROM (
    SELECT v.*, lead(v.effective_at) OVER (PARTITION BY v.check_id ORDER BY v.revision) AS ended_at
    FROM check_schedules v JOIN checks c ON c.id = v.check_id
    WHERE c.removed_at IS NULL OR c.removed_at > now() - $1::interval
) versions
WHERE ended_at IS NULL OR ended_at > now() - $2::interval
ORDER BY check_id, revision`

// LoadCatalog reads the whole catalog.
func (s *Store) LoadCatalog(ctx context.Context) (*Catalog, error) {
	loaded := &Catalog{}
	err := InTx(ctx, s, catalogTimeout, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY`); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&loaded.Now); err != nil {
			return err
		}
		schedules, err := loadSchedules(ctx, tx)
		if err != nil {
			return err
		}
		checks, err := loadChecks(ctx, tx, schedules)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, loadServersSQL, removedServersFor)
		if err != nil {
			return err
		}
		loaded.Servers, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (catalog.Server, error) {
			server, err := scanServer(row)
			server.Checks = checks[server.ID]
			return server, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load catalog: %w", err)
	}
	return loaded, nil
}

func scanServer(row pgx.CollectableRow) (catalog.Server, error) {
	var (
		server                 catalog.Server
		sealed, hash, previous *string
		until                  *time.Time
		metadata               []byte
	)
	err := row.Scan(&server.ID, &server.Org, &server.Name, &server.DisplayName, &server.Source, &server.Lifecycle,
		&server.Region, &server.Environment, &server.Tags, &server.Groups,
		&server.Revision, &server.Change, &server.ChangedAt,
		&server.Description, &server.Hostname, &server.Version, &server.APIURL, &metadata,
		&sealed, &hash, &previous, &until)
	if err != nil {
		return catalog.Server{}, err
	}
	if len(metadata) > len(`{}`) {
		if err := json.Unmarshal(metadata, &server.Metadata); err != nil {
			return catalog.Server{}, fmt.Errorf("read metadata of %s: %w", server.Key(), err)
		}
	}
	if sealed != nil && hash != nil {
		server.Credential = &catalog.Credential{Sealed: *sealed, Hash: *hash}
		if previous != nil {
			server.Credential.Previous, server.Credential.PreviousUntil = *previous, fromNull(until)
		}
	}
	return server, nil
}

func loadSchedules(ctx context.Context, tx pgx.Tx) (map[string][]catalog.Schedule, error) {
	rows, err := tx.Query(ctx, loadSchedulesSQL, removedServersFor, schedulesFor)
	if err != nil {
		return nil, err
	}
	schedules := map[string][]catalog.Schedule{}
	var (
		check    string
		version  catalog.Schedule
		interval int64
	)
	scans := []any{&check, &version.Revision, &interval, &version.EffectiveAt, &version.Locations}
	_, err = pgx.ForEachRow(rows, scans, func() error {
		version.Interval = time.Duration(interval) * time.Millisecond
		schedules[check] = append(schedules[check], version)
		version.Locations = nil
		return nil
	})
	return schedules, err
}

func loadChecks(ctx context.Context, tx pgx.Tx, schedules map[string][]catalog.Schedule) (map[string][]catalog.Check, error) {
	rows, err := tx.Query(ctx, loadChecksSQL, removedServersFor, removedChecksFor)
	if err != nil {
		return nil, err
	}
	return scanChecks(rows, schedules)
}

// scanChecks returns checks by the id of their server, with those versions of their schedules that there are.
func scanChecks(rows pgx.Rows, schedules map[string][]catalog.Schedule) (map[string][]catalog.Check, error) {
	defer rows.Close()
	checks := map[string][]catalog.Check{}
	for rows.Next() {
		var (
			check                 catalog.Check
			server, kind          string
			intervalMS, timeoutMS int64
			enabled               bool
			spec, alerts          []byte
		)
		err := rows.Scan(&server, &check.ID, &check.Serial, &check.Revision, &check.Name, &kind, &intervalMS, &timeoutMS,
			&check.Locations, &check.Priority, &enabled, &check.Removed, &spec, &alerts)
		if err != nil {
			return nil, err
		}
		check.Interval, check.Timeout = time.Duration(intervalMS)*time.Millisecond, time.Duration(timeoutMS)*time.Millisecond
		check.Disabled = !enabled
		check.Schedules = schedules[check.ID]
		if err := readSpec(&check, kind, spec, alerts); err != nil {
			return nil, fmt.Errorf("check %s: %w", check.ID, err)
		}
		checks[server] = append(checks[server], check)
	}
	return checks, rows.Err()
}

// readSpec skips fields that a newer version wrote.
func readSpec(check *catalog.Check, kind string, spec, alerts []byte) error {
	options := protojson.UnmarshalOptions{DiscardUnknown: true}
	var into proto.Message
	switch kind {
	case catalog.KindHTTP:
		check.HTTP = &picketv1.HTTPSpec{}
		into = check.HTTP
	case catalog.KindTCP:
		check.TCP = &picketv1.TCPSpec{}
		into = check.TCP
	case catalog.KindMetrics:
		check.Metrics = &picketv1.MetricsSpec{}
		into = check.Metrics
	case catalog.KindReported:
		check.Reported = true
		into = &picketv1.HTTPSpec{} // it has none
	default:
		return fmt.Errorf("unknown kind %q", kind)
	}
	if err := options.Unmarshal(spec, into); err != nil {
		return fmt.Errorf("read specification: %w", err)
	}
	if alerts == nil {
		return nil
	}
	check.Alerts = &picketv1.AlertRules{}
	if err := options.Unmarshal(alerts, check.Alerts); err != nil {
		return fmt.Errorf("read alert rules: %w", err)
	}
	return nil
}

// StreamExtent is what publications are measured against.
type StreamExtent struct {
	// Epoch tells one life of the stream from the next.
	Epoch             int64
	FirstSeq, LastSeq uint64
}

// Publications returns the revision of each server, by ID, that the stream has got and still holds. What it has thrown
// away counts as there for settled after it was sent: a stream that keeps nothing must not be filled with the catalog
// over and over.
func (s *Store) Publications(ctx context.Context, at StreamExtent, settled time.Duration) (map[string]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `
		SELECT server_id::text, revision FROM catalog_publications
		WHERE stream_epoch = $1 AND (after_seq + 1 >= $2 OR published_at > now() - $3::interval)`,
		at.Epoch, int64(at.FirstSeq), settled)
	if err != nil {
		return nil, fmt.Errorf("read publications: %w", err)
	}
	published := map[string]int64{}
	var (
		server   string
		revision int64
	)
	_, err = pgx.ForEachRow(rows, []any{&server, &revision}, func() error {
		published[server] = revision
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read publications: %w", err)
	}
	return published, nil
}

// MarkPublished notes that the stream has got these servers as they are here, behind the last sequence of before. A
// server whose row is gone is left out.
func (s *Store) MarkPublished(ctx context.Context, before StreamExtent, servers []catalog.Server) error {
	ids, revisions := make([]string, len(servers)), make([]int64, len(servers))
	for i := range servers {
		ids[i], revisions[i] = servers[i].ID, servers[i].Revision
	}
	ctx, cancel := context.WithTimeout(ctx, catalogTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `
		INSERT INTO catalog_publications AS p (server_id, stream_epoch, after_seq, revision, published_at)
		SELECT x.id, $1, $2, x.revision, now() FROM unnest($3::text[]::uuid[], $4::bigint[]) AS x (id, revision)
		JOIN managed_servers s ON s.id = x.id ORDER BY x.id
		ON CONFLICT (server_id) DO UPDATE SET stream_epoch = excluded.stream_epoch, after_seq = excluded.after_seq,
		    revision = excluded.revision, published_at = excluded.published_at
		WHERE p.stream_epoch <> excluded.stream_epoch OR p.revision <= excluded.revision`,
		before.Epoch, int64(before.LastSeq), ids, revisions)
	if err != nil {
		return fmt.Errorf("mark published: %w", err)
	}
	return nil
}

// ErrStale says that the catalog changed since a plan was made: load it and plan again.
var ErrStale = errors.New("the catalog changed meanwhile")
