package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/picketd/picket/internal/catalog"
)

// ServerRecord is a server as people see it: what is declared of it and how it is.
type ServerRecord struct {
	Org, ID, Name, DisplayName, Description, Hostname, APIURL, Version, Region, Environment string

	Source       catalog.Source
	Lifecycle    catalog.Lifecycle
	HealthStatus string
	Tags         []string
	// Groups are the names of those that it was put into, by whomever; those that select it are not among them.
	Groups []string
	// Metadata is a JSON object.
	Metadata             []byte
	Revision             int64
	CreatedAt, ChangedAt time.Time
	// Zero: never.
	LastSeenAt, LastHealthCheckAt time.Time
	HasToken                      bool
	// PreviousTokenUntil is how long the token before is still presented; zero: there is none.
	PreviousTokenUntil time.Time
}

const recordColumns = `
SELECT s.org, s.id::text, s.name, s.display_name, s.description, s.hostname, s.api_url, s.version, s.region,
       s.environment, s.managed_by, s.lifecycle, s.health_status, s.tags,
       coalesce((SELECT array_agg(g.name ORDER BY g.name COLLATE "C") FROM server_group_members m
                 JOIN server_groups g ON g.id = m.group_id WHERE m.server_id = s.id), '{}'),
       s.metadata, s.revision, s.created_at, s.changed_at, s.last_seen_at, s.last_health_check_at,
       s.api_token_sealed IS NOT NULL, s.api_token_previous_until
FROM managed_servers s`

func scanRecord(row pgx.CollectableRow) (ServerRecord, error) {
	var (
		r                    ServerRecord
		seen, checked, until *time.Time
	)
	err := row.Scan(&r.Org, &r.ID, &r.Name, &r.DisplayName, &r.Description, &r.Hostname, &r.APIURL, &r.Version, &r.Region,
		&r.Environment, &r.Source, &r.Lifecycle, &r.HealthStatus, &r.Tags, &r.Groups, &r.Metadata, &r.Revision,
		&r.CreatedAt, &r.ChangedAt, &seen, &checked, &r.HasToken, &until)
	r.CreatedAt, r.ChangedAt = r.CreatedAt.UTC(), r.ChangedAt.UTC()
	r.LastSeenAt, r.LastHealthCheckAt, r.PreviousTokenUntil = fromNull(seen), fromNull(checked), fromNull(until)
	return r, err
}

// ServerQuery picks living servers of one organization. What is empty picks all.
type ServerQuery struct {
	Org                                          string
	Lifecycle, HealthStatus, Region, Environment string
	// Tags must all be there.
	Tags []string
	// GroupID picks members, static and dynamic.
	GroupID string
	// Text is looked for, in any case, in name, display name, hostname and description.
	Text string
	// After is the name that the page begins behind; Offset is counted from there.
	After         string
	Offset, Limit int
}

// filter is what picks the servers.
func (q *ServerQuery) filter() *conditions {
	c := where(`s.org = $? AND s.removed_at IS NULL`, q.Org)
	c.equal(`s.lifecycle`, q.Lifecycle)
	c.equal(`s.health_status`, q.HealthStatus)
	c.equal(`s.region`, q.Region)
	c.equal(`s.environment`, q.Environment)
	if len(q.Tags) > 0 {
		c.and(`s.tags @> $?`, q.Tags)
	}
	if q.GroupID != "" {
		c.and(`s.id IN (SELECT m.server_id FROM v_group_members m WHERE m.group_id = $?)`, q.GroupID)
	}
	if q.Text != "" {
		text := "%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(q.Text) + "%"
		c.and(`(s.name ILIKE $? OR s.display_name ILIKE $? OR s.hostname ILIKE $? OR s.description ILIKE $?)`,
			text, text, text, text)
	}
	return c
}

// CountServers returns how many servers a query picks, all pages together. It reads every one of them.
func (s *Store) CountServers(ctx context.Context, q ServerQuery) (total int, err error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	picked := q.filter()
	if err := s.pool.QueryRow(ctx, `SELECT count(*) FROM managed_servers s`+picked.sql, picked.args...).Scan(&total); err != nil {
		return 0, fmt.Errorf("count servers: %w", err)
	}
	return total, nil
}

// ListServers returns a page of servers in the order of their names.
func (s *Store) ListServers(ctx context.Context, q ServerQuery) ([]ServerRecord, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	page := q.filter()
	if q.After != "" {
		page.and(`s.name > $?`, q.After)
	}
	page.then(`ORDER BY s.name LIMIT $? OFFSET $?`, q.Limit, q.Offset)
	rows, err := s.pool.Query(ctx, recordColumns+page.sql, page.args...)
	if err != nil {
		return nil, fmt.Errorf("list servers: %w", err)
	}
	servers, err := pgx.CollectRows(rows, scanRecord)
	if err != nil {
		return nil, fmt.Errorf("list servers: %w", err)
	}
	return servers, nil
}

// uuidForm is what the text of a UUID is. An id is compared as what it is, since no index leads to its text.
const uuidForm = `'^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'`

// whereServer finds a living server by its id, or by its name when there is no such id.
const whereServer = `
WHERE s.org = $1 AND s.removed_at IS NULL AND (s.name = $2 OR s.id = CASE WHEN $2 ~ ` + uuidForm + ` THEN $2::text::uuid END)
ORDER BY s.id::text = $2 DESC LIMIT 1`

// Server returns a server by id or name, with its checks, which have no schedules here. The error matches [ErrNotFound].
func (s *Store) Server(ctx context.Context, org, idOrName string) (record ServerRecord, checks []catalog.Check, err error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	// All at one instant, and in one exchange with the database: on a busy machine each costs more than what is asked. A
	// connection whose transaction was left open by an error is not used again.
	batch := &pgx.Batch{}
	batch.Queue(`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`)
	batch.Queue(recordColumns+whereServer, org, idOrName).Query(func(rows pgx.Rows) (err error) {
		record, err = pgx.CollectExactlyOneRow(rows, scanRecord)
		return err
	})
	batch.Queue(checkColumns+` WHERE c.removed_at IS NULL AND c.server_id = (SELECT s.id FROM managed_servers s`+whereServer+`)
		ORDER BY c.name`, org, idOrName).Query(func(rows pgx.Rows) error {
		byServer, err := scanChecks(rows, nil)
		checks = byServer[record.ID]
		return err
	})
	batch.Queue(`COMMIT`)
	err = s.pool.SendBatch(ctx, batch).Close()
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return ServerRecord{}, nil, fmt.Errorf("read server: %w", err)
	}
	return record, checks, nil
}

func checksOf(ctx context.Context, tx pgx.Tx, servers []string) (map[string][]catalog.Check, error) {
	rows, err := tx.Query(ctx, checkColumns+`
		WHERE c.server_id = ANY ($1::text[]::uuid[]) AND c.removed_at IS NULL ORDER BY c.server_id, c.name`, servers)
	if err != nil {
		return nil, err
	}
	return scanChecks(rows, nil)
}

// DeclaredServers returns living servers by id or name as their source declares them, to be edited: what is asked for
// and is not there is left out. Checks have no schedules here.
func (s *Store) DeclaredServers(ctx context.Context, org string, idsOrNames ...string) ([]catalog.Server, error) {
	var servers []catalog.Server
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY`); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, serverColumns+`
			WHERE s.org = $1 AND s.removed_at IS NULL AND (s.name = ANY ($2) OR s.id = ANY (ARRAY(
			    SELECT CASE WHEN x ~ `+uuidForm+` THEN x::uuid END FROM unnest($2::text[]) x)))
			ORDER BY s.name`, org, idsOrNames)
		if err != nil {
			return err
		}
		if servers, err = pgx.CollectRows(rows, scanServer); err != nil {
			return err
		}
		ids := make([]string, len(servers))
		for i := range servers {
			ids[i] = servers[i].ID
		}
		checks, err := checksOf(ctx, tx, ids)
		for i := range servers {
			servers[i].Checks = checks[servers[i].ID]
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read servers: %w", err)
	}
	return servers, nil
}

// ServerByToken returns the id and name of the server that wants a token presented. The error
// matches [ErrNotFound].
func (s *Store) ServerByToken(ctx context.Context, org, token string) (id, name string, err error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	err = s.pool.QueryRow(ctx, `SELECT id::text, name FROM managed_servers
		WHERE org = $1 AND api_token_hash = $2 AND removed_at IS NULL ORDER BY name LIMIT 1`,
		org, catalog.HashToken(token)).Scan(&id, &name)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return "", "", fmt.Errorf("look up server by token: %w", err)
	}
	return id, name, nil
}

// Edit is a change that people make.
type Edit struct {
	Plan catalog.Plan
	// Audit are the entries for the record, one for each server of the plan.
	Audit []Audit
	// Idempotency may be zero; Resource is what a repetition of the request is told of.
	Idempotency Idempotency
	Resource    string
}

// ApplyEdit carries out an edit in one transaction with its record. The error matches [ErrStale] when a server is no
// longer as the plan knew it or a name is taken, and is that of [Store.CheckIdempotency] when the request came before.
func (s *Store) ApplyEdit(ctx context.Context, edit Edit) error {
	rows, err := planRows(edit.Plan)
	if err != nil {
		return fmt.Errorf("apply edit: %w", err)
	}
	err = InTx(ctx, s, catalogTimeout, func(ctx context.Context, tx pgx.Tx) error {
		if err := edit.Idempotency.claim(ctx, tx, edit.Resource); err != nil {
			return err
		}
		if err := rows.apply(ctx, tx); err != nil {
			return err
		}
		for _, entry := range edit.Audit {
			if err := writeAudit(ctx, tx, entry); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("apply edit: %w", err)
	}
	return nil
}
