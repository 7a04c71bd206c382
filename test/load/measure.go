package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/picketd/picket/internal/store"
)

var httpLine = regexp.MustCompile(`^\s+API\s+(http://[^/\s]+)/docs`)

// measure asks the API of a running Picket and audits what it stored meanwhile.
func measure(ctx context.Context, o options, up *output, out io.Writer) error {
	match, err := up.await(ctx, httpLine)
	if err != nil {
		return fmt.Errorf("find the address: %w", err)
	}
	base := match[1]
	database := "postgres:///picket?port=5432&user=postgres&host=" + url.QueryEscape(filepath.Join(o.Dir, "data", "postgres", "run"))
	token, err := os.ReadFile(filepath.Join(o.Dir, "data", "admin-token"))
	if err != nil {
		return fmt.Errorf("read the admin token: %w", err)
	}
	_, _ = fmt.Fprintf(out, "waiting until all %d checks have been looked at\n", o.Checks)
	if err := covered(ctx, database, o); err != nil {
		return err
	}
	before, err := look(ctx, base, database)
	if err != nil {
		return err
	}
	r := newReader(base, strings.TrimSpace(string(token)), func(i int) string { return fmt.Sprintf("sim-%06d", i%o.Checks) })
	_, _ = fmt.Fprintf(out, "asking %.0f times a second for %s while %.0f checks a second run\n\n", o.Reads, o.For, float64(o.Checks)/o.Interval.Seconds())
	from := time.Now()
	asking, stop := context.WithTimeout(ctx, o.For)
	r.run(asking, o.Reads)
	stop()
	if err := ctx.Err(); err != nil {
		return err
	}
	to := time.Now()
	r.client.CloseIdleConnections()
	bad := r.print(out)

	// What was due at the end has until the next tick, and a moment to be stored.
	if err := pause(ctx, o.Interval+10*time.Second); err != nil {
		return err
	}
	coverage, findings, err := audit(ctx, database, from, to)
	if err != nil {
		return err
	}
	after, err := look(ctx, base, database)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "\n%-24s %12s %12s\n", "", "before", "after")
	for _, name := range figures {
		_, _ = fmt.Fprintf(out, "%-24s %12.0f %12.0f\n", name, before[name], after[name])
	}
	_, _ = fmt.Fprintf(out, "\ndue %d, seen %d (%.4f %%), missed %d, unexplained %d, not due %d %v\n", coverage.Due, coverage.Seen,
		100*coverage.Ratio(), coverage.Missed, coverage.Unexplained, coverage.Undue, coverage.Explained)
	for _, finding := range findings {
		_, _ = fmt.Fprintf(out, "  %+v\n", finding)
	}
	switch {
	case coverage.Unexplained > 0:
		return fmt.Errorf("%d results lost", coverage.Unexplained)
	case bad > 0:
		return fmt.Errorf("%d requests were not answered with 200", bad)
	default:
		return nil
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func audit(ctx context.Context, database string, from, to time.Time) (store.Coverage, []store.Finding, error) {
	db, err := store.Open(ctx, store.Options{URL: database, Log: slog.New(slog.DiscardHandler), MaxConns: 2})
	if err != nil {
		return store.Coverage{}, nil, err
	}
	defer db.Close()
	return db.Audit(ctx, store.CoverageFilter{}, from, to, 10)
}

// covered waits until every check has been looked at once.
func covered(ctx context.Context, database string, o options) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute+3*o.Interval)
	defer cancel()
	for {
		seen, err := count(ctx, database, `SELECT count(DISTINCT check_id) FROM check_states WHERE checked_at IS NOT NULL AND server LIKE 'sim-%'`)
		if err == nil && seen >= float64(o.Checks) {
			return nil
		}
		if err := pause(ctx, time.Second); err != nil {
			return fmt.Errorf("%.0f of %d checks looked at: %w", seen, o.Checks, err)
		}
	}
}

func count(ctx context.Context, database, sql string) (n float64, err error) {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return 0, fmt.Errorf("ask the database: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	var whole int64
	if err := conn.QueryRow(ctx, sql).Scan(&whole); err != nil {
		return 0, fmt.Errorf("ask the database: %w", err)
	}
	return float64(whole), nil
}

// figures are what a leak shows in.
var figures = []string{"go_goroutines", "process_resident_memory_bytes", "go_memstats_heap_inuse_bytes", "process_open_fds", "database connections"}

func look(ctx context.Context, base, database string) (map[string]float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	found := map[string]float64{}
	for _, name := range figures {
		if family := families[name]; family != nil && len(family.GetMetric()) > 0 {
			found[name] = value(family.GetMetric()[0])
		}
	}
	found["database connections"], err = count(ctx, database, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	return found, err
}

func value(m *dto.Metric) float64 {
	if m.GetGauge() != nil {
		return m.GetGauge().GetValue()
	}
	return m.GetUntyped().GetValue()
}
