package store

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// CoverageFilter picks checks; what is empty picks all.
type CoverageFilter struct {
	Org, Server, Check string
	Location           string
}

// Coverage compares the ticks that were due, computed from check_schedules, with what is known of them.
type Coverage struct {
	// Due ticks; Seen of them were looked at; Missed = Due − Seen.
	Due, Seen, Missed int64
	// Explained are the missed ticks that a marker or a stream gap accounts for, by reason. The reason of a stream gap
	// is `stream_` with the gap's own, such as stream_overrun.
	Explained map[string]int64
	// Unexplained are those that nothing accounts for: a fault of ours.
	Unexplained int64
	// Undue rows stand at instants at which nothing was due, on-demand ones apart.
	Undue int64
}

// Ratio is Seen ÷ Due, 1 when nothing was due.
func (c Coverage) Ratio() float64 {
	if c.Due == 0 {
		return 1
	}
	return float64(c.Seen) / float64(c.Due)
}

// Finding is a tick or a row that the audit has something to say about.
type Finding struct {
	CheckID     uuid.UUID
	Org, Server string
	Check       string
	Location    string
	At          time.Time
	Revision    int64 // of the schedule that made it due; 0 for an undue row
	Undue       bool  // a row where nothing was due, else a due tick without a row or an explanation
}

const (
	// maxSpan bounds how far before a span of ticks its marker may stand: the contract of results, with some room.
	maxSpan = 26 * time.Hour
	// gapSlack is how much older than its message a tick may be: schedule to stream, timeout included.
	gapSlack = time.Minute
	// coverageChecks is how many checks one statement of the audit reads, so that its deadline suits any fleet.
	coverageChecks = 200

	eventStream    = "PICKET_EVENTS"
	writerConsumer = "writer"
)

// Coverage sums the ticks in [from, to) over the checks of the filter. Ticks of the last moments may still be on their
// way: callers choose `to` accordingly. A row per tick is read.
func (s *Store) Coverage(ctx context.Context, filter CoverageFilter, from, to time.Time) (Coverage, error) {
	coverage, _, err := s.audit(ctx, filter, from, to, 0)
	return coverage, err
}

// Audit is Coverage with the findings themselves, at most limit of them: due ticks with neither row nor explanation, and
// rows that were not due. Two rows of one tick cannot be: they have one key.
func (s *Store) Audit(ctx context.Context, filter CoverageFilter, from, to time.Time, limit int) (Coverage, []Finding, error) {
	return s.audit(ctx, filter, from, to, limit)
}

func (s *Store) audit(ctx context.Context, filter CoverageFilter, from, to time.Time, limit int) (Coverage, []Finding, error) {
	from, to = wholeMillisecond(from), wholeMillisecond(to)
	a := auditor{from: from.UnixMilli(), to: to.UnixMilli(), limit: limit, total: Coverage{Explained: map[string]int64{}}}
	checks, err := s.checkInfos(ctx, filter)
	if err != nil {
		return Coverage{}, nil, fmt.Errorf("coverage: %w", err)
	}
	gaps, err := s.Gaps(ctx, eventStream, writerConsumer, from, to.Add(gapSlack))
	if err != nil {
		return Coverage{}, nil, fmt.Errorf("coverage: %w", err)
	}
	a.gaps = gaps
	for part := range slices.Chunk(checks, coverageChecks) {
		if err := s.auditPart(ctx, &a, part, filter.Location, from, to); err != nil {
			return Coverage{}, nil, fmt.Errorf("coverage: %w", err)
		}
	}
	return a.total, a.findings, nil
}

// wholeMillisecond is the first instant at or after t at which a tick may be: ticks are whole milliseconds, and those that
// are due must begin and end where the rows do.
func wholeMillisecond(t time.Time) time.Time {
	return time.UnixMilli(t.Add(time.Millisecond - 1).UnixMilli())
}

// auditRow is what a row of server_health_checks says about ticks.
type auditRow struct {
	check    uuid.UUID
	location string
	at       int64 // Unix milliseconds
	until    int64 // last tick of the span it stands for; 0: no span
	missed   bool
	onDemand bool
	reason   string
}

const auditSQL = `
SELECT check_id, location, scheduled_at, missed_until, missed, on_demand, reason
FROM server_health_checks
WHERE check_id = ANY ($1) AND ($2 = '' OR location = $2)
  AND scheduled_at >= $3 AND scheduled_at < $4 AND (scheduled_at >= $5 OR missed_until >= $5)
ORDER BY check_id, location, scheduled_at`

func (s *Store) auditPart(ctx context.Context, a *auditor, checks []CheckInfo, location string, from, to time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 2*TxTimeout)
	defer cancel()
	ids := make([]uuid.UUID, 0, len(checks))
	byID := make(map[uuid.UUID]*CheckInfo, len(checks))
	for i := range checks {
		ids = append(ids, checks[i].ID)
		byID[checks[i].ID] = &checks[i]
	}
	rows, err := s.pool.Query(ctx, auditSQL, ids, location, from.Add(-maxSpan), to, from)
	if err != nil {
		return err
	}
	defer rows.Close()
	next, stop := iter.Pull(scanAudit(rows, &err))
	defer stop()
	row, ok := next()
	// Both sides come in the order of check and location.
	for i := range checks {
		for _, at := range checks[i].Locations() {
			if location != "" && at != location {
				continue
			}
			var own []auditRow
			for ; ok && compareSeries(&row, checks[i].ID, at) <= 0; row, ok = next() {
				if compareSeries(&row, checks[i].ID, at) == 0 {
					own = append(own, row)
				} else {
					a.undue(byID[row.check], &row)
				}
			}
			a.series(&checks[i], at, own)
		}
	}
	for ; ok; row, ok = next() {
		a.undue(byID[row.check], &row)
	}
	return err
}

func compareSeries(row *auditRow, check uuid.UUID, location string) int {
	return cmp.Or(bytes.Compare(row.check[:], check[:]), strings.Compare(row.location, location))
}

func scanAudit(rows pgx.Rows, failed *error) iter.Seq[auditRow] {
	return func(yield func(auditRow) bool) {
		for rows.Next() {
			var (
				row   auditRow
				at    time.Time
				until *time.Time
			)
			if *failed = rows.Scan(&row.check, &row.location, &at, &until, &row.missed, &row.onDemand, &row.reason); *failed != nil {
				return
			}
			row.at = at.UnixMilli()
			if until != nil {
				row.until = until.UnixMilli()
			}
			if !yield(row) {
				return
			}
		}
		*failed = rows.Err()
	}
}

// auditor adds up one series, a check at a location, after the other.
type auditor struct {
	from, to int64
	limit    int
	gaps     []StreamGap
	total    Coverage
	findings []Finding
}

// series walks due ticks and rows side by side, both in order of time.
func (a *auditor) series(check *CheckInfo, location string, rows []auditRow) {
	var spans []auditRow
	take := func(row auditRow) {
		if row.until != 0 {
			spans = append(spans, row)
		}
	}
	for at, revision := range check.At(location).Due(check.Serial, location, a.from, a.to) {
		a.total.Due++
		spans = slices.DeleteFunc(spans, func(span auditRow) bool { return span.until < at })
		for len(rows) > 0 && rows[0].at < at {
			a.undue(check, &rows[0])
			take(rows[0])
			rows = rows[1:]
		}
		var own *auditRow
		if len(rows) > 0 && rows[0].at == at {
			own = &rows[0]
			take(rows[0])
			rows = rows[1:]
		}
		if own != nil && !own.missed {
			a.total.Seen++
			continue
		}
		a.total.Missed++
		if reason, ok := a.explain(own, spans, at); ok {
			a.total.Explained[reason]++
			continue
		}
		a.total.Unexplained++
		a.find(Finding{
			CheckID: check.ID, Org: check.Org, Server: check.Server, Check: check.Name, Location: location,
			At: time.UnixMilli(at).UTC(), Revision: revision,
		})
	}
	for i := range rows {
		a.undue(check, &rows[i])
	}
}

// explain names what accounts for a tick that was not looked at: its own marker, a span, a hole in the stream.
func (a *auditor) explain(own *auditRow, spans []auditRow, at int64) (reason string, ok bool) {
	if own != nil {
		return own.reason, true
	}
	for i := range spans {
		if at > spans[i].until {
			continue
		}
		if spans[i].missed {
			return spans[i].reason, true
		}
		return "missed", true // the marker's own reason went when a real outcome took its place
	}
	for i := range a.gaps {
		if at >= a.gaps[i].From.Add(-gapSlack).UnixMilli() && at <= a.gaps[i].To.UnixMilli() {
			return "stream_" + a.gaps[i].Reason, true
		}
	}
	return "", false
}

// undue notes a row at an instant at which nothing was due. Markers are none: a gap may be told by one that stands
// where the clock was, not at a tick.
func (a *auditor) undue(check *CheckInfo, row *auditRow) {
	if row.onDemand || row.missed || row.at < a.from || row.at >= a.to {
		return
	}
	a.total.Undue++
	a.find(Finding{
		CheckID: row.check, Org: check.Org, Server: check.Server, Check: check.Name, Location: row.location,
		At: time.UnixMilli(row.at).UTC(), Undue: true,
	})
}

func (a *auditor) find(finding Finding) {
	if len(a.findings) < a.limit {
		a.findings = append(a.findings, finding)
	}
}
