package store

import (
	"context"
	"fmt"
	"time"
)

// CatalogFingerprint stands for the whole catalog: as long as it is the same, [Store.LoadCatalog] would read what it read
// before, but for what time itself changes. It is comparable. Changes made by hand that keep revision and number of the
// rows do not show in it; they are announced (see [ChannelCatalog]) like all others.
type CatalogFingerprint struct {
	Servers, ServerRevisions int64
	ServersChanged           time.Time
	Checks, CheckRevisions   int64
	Schedules                int64
	SchedulesEffective       time.Time
	GroupMembers             int64
}

const catalogFingerprintSQL = `
SELECT s.servers, s.revisions, s.changed, c.checks, c.revisions, v.schedules, v.effective, m.members
FROM (SELECT count(*) AS servers, coalesce(sum(revision), 0)::bigint AS revisions,
             coalesce(max(changed_at), 'epoch') AS changed FROM managed_servers) s,
     (SELECT count(*) AS checks, coalesce(sum(revision), 0)::bigint AS revisions FROM checks) c,
     (SELECT count(*) AS schedules, coalesce(max(effective_at), 'epoch') AS effective FROM check_schedules) v,
     (SELECT count(*) AS members FROM server_group_members) m`

// CatalogFingerprint returns the fingerprint of the catalog. It costs the database one look at every row and nobody else
// anything.
func (s *Store) CatalogFingerprint(ctx context.Context) (f CatalogFingerprint, err error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	err = s.pool.QueryRow(ctx, catalogFingerprintSQL).Scan(&f.Servers, &f.ServerRevisions, &f.ServersChanged,
		&f.Checks, &f.CheckRevisions, &f.Schedules, &f.SchedulesEffective, &f.GroupMembers)
	if err != nil {
		return CatalogFingerprint{}, fmt.Errorf("read fingerprint of the catalog: %w", err)
	}
	return f, nil
}

// Unpublished returns how many servers there are whose last change the stream has not got or does not hold any more; at and
// settled are as for Publications. What was removed longer than removedFor ago is due no more.
func (s *Store) Unpublished(ctx context.Context, at StreamExtent, settled, removedFor time.Duration) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	err = s.pool.QueryRow(ctx, `
		SELECT count(*) FROM managed_servers s LEFT JOIN catalog_publications p ON p.server_id = s.id
		WHERE (s.removed_at IS NULL OR s.changed_at > now() - $4::interval)
		AND (p.server_id IS NULL OR p.revision < s.revision OR p.stream_epoch <> $1
		     OR NOT (p.after_seq + 1 >= $2 OR p.published_at > now() - $3::interval))`,
		at.Epoch, int64(at.FirstSeq), settled, removedFor).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count what is not published: %w", err)
	}
	return n, nil
}
