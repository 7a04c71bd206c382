package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/picketd/picket/internal/tick"
)

// CheckInfo is what there is to know about when and where a check is due, removed ones included.
type CheckInfo struct {
	ID                      uuid.UUID
	Serial                  int64
	Org, Server, Name, Kind string
	Enabled                 bool
	Versions                []ScheduleVersion // oldest first; at least one
}

// ScheduleVersion is a row of check_schedules.
type ScheduleVersion struct {
	tick.Schedule
	Locations []string
}

// At returns the schedules of the check at one location: where a version does not name it, nothing is due.
func (c *CheckInfo) At(location string) tick.Schedules {
	schedules := make(tick.Schedules, 0, len(c.Versions))
	for _, version := range c.Versions {
		if !slices.Contains(version.Locations, location) {
			version.IntervalMS = 0
		}
		schedules = append(schedules, version.Schedule)
	}
	return schedules
}

// Locations are all that any version names, sorted.
func (c *CheckInfo) Locations() []string {
	var locations []string
	for _, version := range c.Versions {
		locations = append(locations, version.Locations...)
	}
	slices.Sort(locations)
	return slices.Compact(locations)
}

const checkInfoSQL = `
SELECT c.id, c.serial, s.org, s.name, c.name, c.kind, c.enabled, v.revision, v.interval_ms, v.effective_at, v.locations
FROM checks c JOIN managed_servers s ON s.id = c.server_id JOIN check_schedules v ON v.check_id = c.id
WHERE ($1 = '' OR s.org = $1) AND ($2 = '' OR s.name = $2) AND ($3 = '' OR c.name = $3)
ORDER BY c.id, v.effective_at, v.revision`

// FindCheck returns a check by its names; ErrNotFound when there is none, or it was never scheduled.
func (s *Store) FindCheck(ctx context.Context, org, server, check string) (CheckInfo, error) {
	checks, err := s.checkInfos(ctx, CoverageFilter{Org: org, Server: server, Check: check})
	switch {
	case err != nil:
		return CheckInfo{}, fmt.Errorf("find check: %w", err)
	case len(checks) == 0:
		return CheckInfo{}, fmt.Errorf("find check %s/%s/%s: %w", org, server, check, ErrNotFound)
	}
	return checks[0], nil
}

// LastResult returns the newest tick of a check at a location that has a row up to an instant, or is explained by one, which
// may reach further; zero when none.
func (s *Store) LastResult(ctx context.Context, check uuid.UUID, location string, until time.Time) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	var at time.Time
	err := s.pool.QueryRow(ctx, `
		SELECT greatest(scheduled_at, missed_until) FROM server_health_checks
		WHERE check_id = $1 AND location = $2 AND scheduled_at <= $3 AND NOT on_demand ORDER BY scheduled_at DESC LIMIT 1`,
		check, location, until).Scan(&at)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return time.Time{}, fmt.Errorf("read last result: %w", err)
	}
	return at, nil
}

// checkInfos reads the checks of a filter in the order of their ids.
func (s *Store) checkInfos(ctx context.Context, filter CoverageFilter) ([]CheckInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, checkInfoSQL, filter.Org, filter.Server, filter.Check)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var checks []CheckInfo
	for rows.Next() {
		info, version, err := scanCheckInfo(rows)
		if err != nil {
			return nil, err
		}
		if n := len(checks); n == 0 || checks[n-1].ID != info.ID {
			checks = append(checks, info)
		}
		last := &checks[len(checks)-1]
		last.Versions = append(last.Versions, version)
	}
	return checks, rows.Err()
}

func scanCheckInfo(rows pgx.Rows) (info CheckInfo, version ScheduleVersion, err error) {
	var effective time.Time
	err = rows.Scan(&info.ID, &info.Serial, &info.Org, &info.Server, &info.Name, &info.Kind, &info.Enabled,
		&version.Revision, &version.IntervalMS, &effective, &version.Locations)
	version.EffectiveAtMS = effective.UnixMilli()
	return info, version, err
}

// DueRate returns how many ticks a second are due by the newest schedules, over all checks and locations.
func (s *Store) DueRate(ctx context.Context) (perSecond float64, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT coalesce(sum(1000.0 * cardinality(v.locations) / v.interval_ms), 0)::float8
		FROM (SELECT DISTINCT ON (check_id) interval_ms, locations FROM check_schedules ORDER BY check_id, revision DESC) v
		WHERE v.interval_ms > 0`).Scan(&perSecond)
	if err != nil {
		return 0, fmt.Errorf("rate of due ticks: %w", err)
	}
	return perSecond, nil
}
