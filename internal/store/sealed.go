package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/picketd/picket/internal/catalog"
)

// StaleSeals returns living servers, of any organization, whose token or the one before it was not sealed by the key
// whose values begin with prefix, in the order of organization and name, those behind the given one.
func (s *Store) StaleSeals(ctx context.Context, prefix string, after catalog.Key, limit int) ([]catalog.Key, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `
		SELECT org, name FROM managed_servers
		WHERE removed_at IS NULL AND api_token_sealed IS NOT NULL AND (org, name) > ($2, $3)
		  AND (NOT starts_with(api_token_sealed, $1) OR api_token_previous IS NOT NULL AND NOT starts_with(api_token_previous, $1))
		ORDER BY org, name LIMIT $4`, prefix, after.Org, after.Name, limit)
	if err != nil {
		return nil, fmt.Errorf("list stale seals: %w", err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (key catalog.Key, err error) {
		return key, row.Scan(&key.Org, &key.Name)
	})
	if err != nil {
		return nil, fmt.Errorf("list stale seals: %w", err)
	}
	return keys, nil
}
