package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/picketd/picket/internal/catalog"
)

// Selector makes every server a member of a group that meets all of what is not empty. One that is empty selects all.
type Selector struct {
	// TagsAll must all be there, of TagsAny at least one.
	TagsAll []string `json:"tags_all,omitempty"`
	TagsAny []string `json:"tags_any,omitempty"`
	// The others name what a server's may be.
	Regions      []string `json:"regions,omitempty"`
	Environments []string `json:"environments,omitempty"`
	// Status is the lifecycle.
	Status       []string `json:"status,omitempty"`
	HealthStatus []string `json:"health_status,omitempty"`
}

// Group is a group of servers, which were put into it or that its selector finds.
type Group struct {
	ID, Org, Name, Description, Color string
	// Selector is nil when the group has static members alone.
	Selector             *Selector
	Source               catalog.Source
	Revision             int64
	CreatedAt, UpdatedAt time.Time
	// Members are counted when it was read, each once.
	Members int
}

// DeclaredError says that a source other than people holds a thing, so that people cannot change it.
type DeclaredError struct {
	// What is held.
	What   string
	Source catalog.Source
}

func (e *DeclaredError) Error() string {
	return fmt.Sprintf("%s is declared by the source %s: change it there", e.What, e.Source)
}

const groupColumns = `
SELECT g.id::text, g.org, g.name, g.description, g.color, g.selector, g.managed_by, g.revision, g.created_at, g.updated_at,
       (SELECT count(*) FROM v_group_members m WHERE m.group_id = g.id)
FROM server_groups g`

func scanGroup(row pgx.CollectableRow) (Group, error) {
	var (
		g        Group
		selector []byte
	)
	err := row.Scan(&g.ID, &g.Org, &g.Name, &g.Description, &g.Color, &selector, &g.Source, &g.Revision, &g.CreatedAt,
		&g.UpdatedAt, &g.Members)
	g.CreatedAt, g.UpdatedAt = g.CreatedAt.UTC(), g.UpdatedAt.UTC()
	if err == nil && selector != nil {
		g.Selector = &Selector{}
		err = json.Unmarshal(selector, g.Selector)
	}
	return g, err
}

// Groups returns an organization's groups in the order of their names, those after the given one.
func (s *Store) Groups(ctx context.Context, org, after string, limit int) ([]Group, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, groupColumns+` WHERE g.org = $1 AND g.name > $2 ORDER BY g.name LIMIT $3`, org, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	groups, err := pgx.CollectRows(rows, scanGroup)
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	return groups, nil
}

// Group returns a group by id or name; the error matches [ErrNotFound].
func (s *Store) Group(ctx context.Context, org, idOrName string) (Group, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	group, err := oneGroup(s.pool.Query(ctx, groupColumns+` WHERE g.org = $1 AND (g.name = $2 OR g.id::text = $2)`, org, idOrName))
	if err != nil {
		return Group{}, fmt.Errorf("read group: %w", err)
	}
	return group, nil
}

func oneGroup(rows pgx.Rows, err error) (Group, error) {
	if err != nil {
		return Group{}, err
	}
	group, err := pgx.CollectExactlyOneRow(rows, scanGroup)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	return group, err
}

// lockGroup keeps a group as it is until the transaction ends.
func lockGroup(ctx context.Context, tx pgx.Tx, org, idOrName string) (Group, error) {
	return oneGroup(tx.Query(ctx, groupColumns+` WHERE g.org = $1 AND (g.name = $2 OR g.id::text = $2) FOR UPDATE OF g`, org, idOrName))
}

// CreateGroup makes a group; ID, revision and times are set here. The error matches [ErrExists] when the name is taken.
func (s *Store) CreateGroup(ctx context.Context, group Group, idempotency Idempotency, audit Audit) (Group, error) {
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		if err := idempotency.claim(ctx, tx, group.Name); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO server_groups (org, name, description, color, selector, managed_by) VALUES ($1, $2, $3, $4, $5, 'api')`,
			group.Org, group.Name, group.Description, group.Color, group.Selector)
		if Classify(err) == Conflict {
			return ErrExists
		}
		if err != nil {
			return err
		}
		if group, err = lockGroup(ctx, tx, group.Org, group.Name); err != nil {
			return err
		}
		audit.Target, audit.After = group.Name, describeGroup(group)
		return writeAudit(ctx, tx, audit)
	})
	if err != nil {
		return Group{}, fmt.Errorf("create group: %w", err)
	}
	return group, nil
}

// ChangeGroup has change make a group different: name, description, color, selector; its error is returned. A name that
// servers of other sources go by stays: [DeclaredError]. The error matches [ErrNotFound], and [ErrExists] when the new
// name is taken.
func (s *Store) ChangeGroup(ctx context.Context, org, idOrName string, change func(*Group) error, audit Audit) (Group, error) {
	var after Group
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		before, err := lockGroup(ctx, tx, org, idOrName)
		if err != nil {
			return err
		}
		after = before
		if err := change(&after); err != nil {
			return err
		}
		if after.Name != before.Name {
			if err := undeclared(ctx, tx, before); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `UPDATE server_groups SET name = $2, description = $3, color = $4, selector = $5,
			revision = revision + 1, updated_at = now() WHERE id = $1`,
			before.ID, after.Name, after.Description, after.Color, after.Selector)
		if Classify(err) == Conflict {
			return ErrExists
		}
		if err != nil {
			return err
		}
		if after.Name != before.Name {
			// Servers carry the names of their groups.
			if err := bumpMembers(ctx, tx, before.ID, ""); err != nil {
				return err
			}
		}
		if after, err = lockGroup(ctx, tx, org, before.ID); err != nil {
			return err
		}
		audit.Target, audit.Before, audit.After = before.Name, describeGroup(before), describeGroup(after)
		return writeAudit(ctx, tx, audit)
	})
	if err != nil {
		return Group{}, fmt.Errorf("change group: %w", err)
	}
	return after, nil
}

// DeleteGroup removes a group that no source besides people has put servers into: [DeclaredError]. may says whether this
// group is the one that is meant; its error is returned. The error matches [ErrNotFound].
func (s *Store) DeleteGroup(ctx context.Context, org, idOrName string, may func(Group) error, audit Audit) error {
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		group, err := lockGroup(ctx, tx, org, idOrName)
		if err != nil {
			return err
		}
		if err := may(group); err != nil {
			return err
		}
		if err := undeclared(ctx, tx, group); err != nil {
			return err
		}
		if err := bumpMembers(ctx, tx, group.ID, ""); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM server_groups WHERE id = $1`, group.ID); err != nil {
			return err
		}
		audit.Target, audit.Before = group.Name, describeGroup(group)
		return writeAudit(ctx, tx, audit)
	})
	if err != nil {
		return fmt.Errorf("delete group: %w", err)
	}
	return nil
}

// undeclared is a [DeclaredError] when a living server of another source is in the group by its declaration.
func undeclared(ctx context.Context, tx pgx.Tx, group Group) error {
	var source catalog.Source
	err := tx.QueryRow(ctx, `SELECT m.managed_by FROM server_group_members m JOIN managed_servers s ON s.id = m.server_id
		WHERE m.group_id = $1 AND m.managed_by <> 'api' AND s.removed_at IS NULL LIMIT 1`, group.ID).Scan(&source)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	return &DeclaredError{What: "group " + group.Name, Source: source}
}

func describeGroup(g Group) map[string]any {
	described := map[string]any{"id": g.ID, "name": g.Name, "description": g.Description, "color": g.Color}
	if g.Selector != nil {
		described["selector"] = g.Selector
	}
	return described
}
