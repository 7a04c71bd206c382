package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/picketd/picket/internal/catalog"
)

// AddMember puts a server, of any source, into a group; both go by id or name. One that is in it already stays. The error
// matches [ErrNotFound] when there is no such group or server.
func (s *Store) AddMember(ctx context.Context, org, group, server string, audit Audit) error {
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		g, name, id, err := lockMember(ctx, tx, org, group, server)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `INSERT INTO server_group_members (server_id, group_id, managed_by) VALUES ($1, $2, 'api')
			ON CONFLICT DO NOTHING`, id, g.ID)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		if err := bumpMembers(ctx, tx, g.ID, id); err != nil {
			return err
		}
		audit.Target, audit.After = g.Name, map[string]any{"server": name}
		return writeAudit(ctx, tx, audit)
	})
	if err != nil {
		return fmt.Errorf("add group member: %w", err)
	}
	return nil
}

// RemoveMember takes a server out of a group that people have put it into. The error matches [ErrNotFound] when it is not
// in it, and is a [DeclaredError] when the server's source says that it is.
func (s *Store) RemoveMember(ctx context.Context, org, group, server string, audit Audit) error {
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		g, name, id, err := lockMember(ctx, tx, org, group, server)
		if err != nil {
			return err
		}
		var source catalog.Source
		err = tx.QueryRow(ctx, `SELECT managed_by FROM server_group_members WHERE server_id = $1 AND group_id = $2 FOR UPDATE`,
			id, g.ID).Scan(&source)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return ErrNotFound
		case err != nil:
			return err
		case source != catalog.SourceAPI:
			return &DeclaredError{What: "the membership of server " + name, Source: source}
		}
		if err := bumpMembers(ctx, tx, g.ID, id); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM server_group_members WHERE server_id = $1 AND group_id = $2`, id, g.ID)
		if err != nil {
			return err
		}
		audit.Target, audit.Before = g.Name, map[string]any{"server": name}
		return writeAudit(ctx, tx, audit)
	})
	if err != nil {
		return fmt.Errorf("remove group member: %w", err)
	}
	return nil
}

// lockMember finds both sides of a membership, and keeps the group as it is.
func lockMember(ctx context.Context, tx pgx.Tx, org, group, server string) (g Group, name, id string, err error) {
	if g, err = lockGroup(ctx, tx, org, group); err != nil {
		return Group{}, "", "", err
	}
	err = tx.QueryRow(ctx, `SELECT s.name, s.id::text FROM managed_servers s`+whereServer+` FOR NO KEY UPDATE`, org, server).Scan(&name, &id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	return g, name, id, err
}

// bumpMembers gives the servers that people have registered and put into a group, or one of them, a new revision: the
// event of their last change names their groups. Those of other sources name what their source declares.
func bumpMembers(ctx context.Context, tx pgx.Tx, group, server string) error {
	_, err := tx.Exec(ctx, `
		UPDATE managed_servers s SET revision = revision + 1, change = 'changed', changed_at = clock_timestamp()
		FROM (SELECT x.id FROM managed_servers x JOIN server_group_members m ON m.server_id = x.id
		      WHERE m.group_id = $1 AND m.managed_by = 'api' AND x.managed_by = 'api' AND x.removed_at IS NULL
		        AND ($2 = '' OR x.id::text = $2)
		      ORDER BY x.id FOR NO KEY UPDATE OF x) members
		WHERE s.id = members.id`, group, server)
	return err
}
