package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/picketd/picket/internal/catalog"
)

const (
	// newEffectiveAfter and changedEffectiveAfter are the time that everybody has to hear of a schedule before it is
	// in force. A change must reach every prober, or some tick would be due to nobody; a new check only has to start.
	newEffectiveAfter     = 2 * time.Second
	changedEffectiveAfter = 10 * time.Second
	// effectivePerCheck is added for each check of a large plan: what bringing it to the probers takes at most.
	effectivePerCheck = 500 * time.Microsecond
	// applyRows is how many rows one statement takes.
	applyRows = 10_000
)

// Applied is what ApplyCatalog did.
type Applied struct {
	Added, Changed, Removed int
}

// ApplyCatalog carries out a plan in one transaction: rows, revisions, schedules. The error matches ErrStale when the
// catalog is no longer what the plan was made from, and ErrLeaseLost when lease is not nil and no longer held.
func (s *Store) ApplyCatalog(ctx context.Context, plan catalog.Plan, lease *Lease) (Applied, error) {
	rows, err := planRows(plan)
	if err != nil {
		return Applied{}, fmt.Errorf("apply catalog: %w", err)
	}
	err = InTx(ctx, s, catalogTimeout, func(ctx context.Context, tx pgx.Tx) error {
		if err := rows.apply(ctx, tx); err != nil {
			return err
		}
		if lease != nil {
			// Last, since it keeps the lease from being renewed too.
			return holdLease(ctx, tx, *lease)
		}
		return nil
	})
	if err != nil {
		return Applied{}, fmt.Errorf("apply catalog: %w", err)
	}
	return Applied{Added: len(plan.Add), Changed: len(plan.Change), Removed: len(plan.Remove)}, nil
}

const serverRecord = `jsonb_to_recordset($1::jsonb) AS x (id uuid, revision bigint, org text, name text, managed_by text,
    lifecycle text, change text, display_name text, region text, environment text, tags text[], groups text[],
    description text, hostname text, version text, api_url text, metadata jsonb, token_sealed text, token_hash text,
    token_previous text, previous_until timestamptz)`

const addOrganizationsSQL = `
INSERT INTO organizations (slug) SELECT DISTINCT org FROM ` + serverRecord + ` ORDER BY org ON CONFLICT DO NOTHING`

// A removed server comes back under its id; a living one is somebody else's and stays as it is.
const addServersSQL = `
INSERT INTO managed_servers AS t (org, name, managed_by, lifecycle, change, display_name, region, environment, tags,
    changed_at, description, hostname, version, api_url, metadata, api_token_sealed, api_token_hash, api_token_previous,
    api_token_previous_until)
SELECT org, name, managed_by, lifecycle, change, display_name, region, environment, tags, clock_timestamp(),
    description, hostname, version, api_url, metadata, token_sealed, token_hash, token_previous, previous_until
FROM ` + serverRecord + ` ORDER BY org, name
ON CONFLICT (org, name) DO UPDATE SET managed_by = excluded.managed_by, lifecycle = excluded.lifecycle,
    change = excluded.change, display_name = excluded.display_name, region = excluded.region,
    environment = excluded.environment, tags = excluded.tags, changed_at = excluded.changed_at,
    revision = t.revision + 1, removed_at = NULL, health_status = 'unknown', description = excluded.description,
    hostname = excluded.hostname, version = excluded.version, api_url = excluded.api_url, metadata = excluded.metadata,
    api_token_sealed = excluded.api_token_sealed, api_token_hash = excluded.api_token_hash,
    api_token_previous = excluded.api_token_previous, api_token_previous_until = excluded.api_token_previous_until
WHERE t.removed_at IS NOT NULL
RETURNING id::text`

// The lock comes first and in one order, so that plans that overlap wait for each other and never in a circle.
const lockServersSQL = `
SELECT s.id::text FROM managed_servers s JOIN ` + serverRecord + ` ON x.id = s.id
WHERE s.revision = x.revision AND s.removed_at IS NULL ORDER BY s.id FOR NO KEY UPDATE OF s`

const changeServersSQL = `
UPDATE managed_servers s SET lifecycle = x.lifecycle, change = x.change, display_name = x.display_name,
    region = x.region, environment = x.environment, tags = x.tags, changed_at = clock_timestamp(),
    revision = s.revision + 1, description = x.description, hostname = x.hostname, version = x.version,
    api_url = x.api_url, metadata = x.metadata, api_token_sealed = x.token_sealed, api_token_hash = x.token_hash,
    api_token_previous = x.token_previous, api_token_previous_until = x.previous_until
FROM ` + serverRecord + ` WHERE s.id = x.id`

const removeServersSQL = `
UPDATE managed_servers s SET change = 'removed', changed_at = clock_timestamp(), removed_at = clock_timestamp(),
    revision = s.revision + 1, api_token_sealed = NULL, api_token_hash = NULL, api_token_previous = NULL,
    api_token_previous_until = NULL
FROM ` + serverRecord + ` WHERE s.id = x.id`

const removeChecksSQL = `
UPDATE checks c SET removed_at = clock_timestamp(), enabled = false, revision = s.revision
FROM managed_servers s
WHERE s.id = c.server_id AND c.removed_at IS NULL AND (c.id = ANY ($1::text[]::uuid[]) OR c.server_id = ANY ($2::text[]::uuid[]))`

const putChecksSQL = `
INSERT INTO checks AS t (server_id, revision, name, kind, interval_ms, timeout_ms, locations, priority, enabled, spec,
    alerts)
SELECT s.id, s.revision, x.name, x.kind, x.interval_ms, x.timeout_ms, x.locations, x.priority, x.enabled, x.spec,
    x.alerts
FROM jsonb_to_recordset($1::jsonb) AS x (org text, server text, name text, kind text, interval_ms bigint,
    timeout_ms bigint, locations text[], priority integer, enabled boolean, spec jsonb, alerts jsonb)
JOIN managed_servers s ON s.org = x.org AND s.name = x.server
ORDER BY s.org, s.name, x.name
ON CONFLICT (server_id, name) DO UPDATE SET revision = excluded.revision, kind = excluded.kind,
    interval_ms = excluded.interval_ms, timeout_ms = excluded.timeout_ms, locations = excluded.locations,
    priority = excluded.priority, enabled = excluded.enabled, spec = excluded.spec, alerts = excluded.alerts,
    removed_at = NULL`

// A version for each check that is due otherwise than by its last one. Versions never overtake each other. One that
// nobody follows now (new, or ended everywhere) is in force soon, any other later.
const addSchedulesSQL = `
WITH touched AS (
    SELECT c.id, c.revision, c.locations,
           CASE WHEN c.enabled AND c.removed_at IS NULL AND s.lifecycle <> 'inactive' THEN c.interval_ms ELSE 0 END AS interval_ms
    FROM checks c JOIN managed_servers s ON s.id = c.server_id
    WHERE c.server_id = ANY ($1::text[]::uuid[]) AND c.revision = s.revision
), last AS (
    SELECT DISTINCT ON (v.check_id) v.* FROM check_schedules v JOIN touched t ON t.id = v.check_id
    ORDER BY v.check_id, v.revision DESC
), moment AS (
    SELECT date_trunc('milliseconds', clock_timestamp()) AS now
)
INSERT INTO check_schedules (check_id, revision, interval_ms, effective_at, locations)
SELECT t.id, t.revision, t.interval_ms,
       greatest(moment.now + CASE WHEN l.check_id IS NULL OR l.interval_ms = 0 AND l.effective_at <= moment.now
                                  THEN $2::interval ELSE $3::interval END,
                l.effective_at + interval '1 millisecond'),
       t.locations
FROM moment, touched t LEFT JOIN last l ON l.check_id = t.id
WHERE l.check_id IS NULL OR t.interval_ms <> l.interval_ms OR t.interval_ms > 0 AND t.locations <> l.locations`

const addGroupsSQL = `
INSERT INTO server_groups (org, name, managed_by)
SELECT DISTINCT ON (x.org, g) x.org, g, x.managed_by FROM ` + serverRecord + `, unnest(x.groups) AS g
ORDER BY x.org, g ON CONFLICT DO NOTHING`

// People put servers of any source into groups; that stays.
const dropMembersSQL = `
DELETE FROM server_group_members m USING managed_servers s, ` + serverRecord + `
WHERE s.org = x.org AND s.name = x.name AND m.server_id = s.id AND (m.managed_by <> 'api' OR s.managed_by = 'api')
  AND NOT EXISTS (SELECT FROM server_groups g WHERE g.id = m.group_id AND g.name = ANY (x.groups))`

const addMembersSQL = `
INSERT INTO server_group_members (server_id, group_id, managed_by)
SELECT s.id, g.id, s.managed_by FROM ` + serverRecord + `
JOIN managed_servers s ON s.org = x.org AND s.name = x.name
JOIN server_groups g ON g.org = x.org AND g.name = ANY (x.groups)
ON CONFLICT (server_id, group_id) DO UPDATE SET managed_by = excluded.managed_by`

func (r *applyRowsOf) apply(ctx context.Context, tx pgx.Tx) error {
	touched, removed, err := r.applyServers(ctx, tx)
	if err != nil {
		return err
	}
	if len(r.gone)+len(removed) > 0 {
		if _, err := tx.Exec(ctx, removeChecksSQL, r.gone, removed); err != nil {
			return fmt.Errorf("remove checks: %w", err)
		}
	}
	err = each(r.checks, func(rows string) error {
		_, err := tx.Exec(ctx, putChecksSQL, rows)
		return err
	})
	if err != nil {
		return fmt.Errorf("put checks: %w", err)
	}
	spread := time.Duration(len(r.checks)) * effectivePerCheck
	_, err = tx.Exec(ctx, addSchedulesSQL, append(touched, removed...), newEffectiveAfter+spread, changedEffectiveAfter+spread)
	if err != nil {
		return fmt.Errorf("add schedules: %w", err)
	}
	// What is not probed any more sends no result that would; of what was added the old states say nothing.
	if err := summarizeServers(ctx, tx, append(touched[len(r.add):], removed...)); err != nil {
		return err
	}
	for _, servers := range [][]serverRow{r.add, r.change} {
		for _, sql := range []string{addGroupsSQL, dropMembersSQL, addMembersSQL} {
			err := each(servers, func(rows string) error {
				_, err := tx.Exec(ctx, sql, rows)
				return err
			})
			if err != nil {
				return fmt.Errorf("set groups: %w", err)
			}
		}
	}
	return nil
}

// applyServers returns the IDs of servers that were added or changed, and of those that were removed.
func (r *applyRowsOf) applyServers(ctx context.Context, tx pgx.Tx) (touched, removed []string, err error) {
	err = each(r.add, func(rows string) error {
		if _, err := tx.Exec(ctx, addOrganizationsSQL, rows); err != nil {
			return fmt.Errorf("add organizations: %w", err)
		}
		added, err := idsOf(ctx, tx, addServersSQL, rows)
		if err != nil {
			return fmt.Errorf("add servers: %w", err)
		}
		touched = append(touched, added...)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if len(touched) != len(r.add) {
		return nil, nil, fmt.Errorf("add servers: %w", ErrStale)
	}
	changed, err := update(ctx, tx, r.change, changeServersSQL)
	if err != nil {
		return nil, nil, fmt.Errorf("change servers: %w", err)
	}
	removed, err = update(ctx, tx, r.remove, removeServersSQL)
	if err != nil {
		return nil, nil, fmt.Errorf("remove servers: %w", err)
	}
	return append(touched, changed...), removed, nil
}

// update locks the servers, makes sure that they are as the plan knew them, and runs sql.
func update(ctx context.Context, tx pgx.Tx, servers []serverRow, sql string) (ids []string, err error) {
	err = each(servers, func(rows string) error {
		locked, err := idsOf(ctx, tx, lockServersSQL, rows)
		if err != nil {
			return err
		}
		ids = append(ids, locked...)
		_, err = tx.Exec(ctx, sql, rows)
		return err
	})
	if err == nil && len(ids) != len(servers) {
		err = ErrStale
	}
	return ids, err
}

func idsOf(ctx context.Context, tx pgx.Tx, sql, rows string) ([]string, error) {
	result, err := tx.Query(ctx, sql, rows)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(result, func(row pgx.CollectableRow) (id string, err error) {
		err = row.Scan(&id)
		return id, err
	})
}

// each hands over rows as JSON, as many at a time as one statement takes.
func each[R any](rows []R, run func(rows string) error) error {
	for part := range slices.Chunk(rows, applyRows) {
		data, err := json.Marshal(part)
		if err != nil {
			return fmt.Errorf("write rows: %w", err)
		}
		if err := run(string(data)); err != nil {
			return err
		}
	}
	return nil
}
