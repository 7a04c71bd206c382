package store

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// ExportFilters say which rows an export has. Each field that is set is applied; one that means nothing to the type of
// export is refused.
type ExportFilters struct {
	// TimeRange is one of 1h 6h 24h 7d 30d 90d, up to the moment of the request; From and To, [From, To), are filled in then.
	TimeRange string     `json:"time_range,omitempty"`
	From      *time.Time `json:"from,omitempty"`
	To        *time.Time `json:"to,omitempty"`
	// Servers and Groups are names. A row counts that meets every field: within a list any value does, of Tags all must.
	Servers  []string `json:"servers,omitempty"`
	Groups   []string `json:"groups,omitempty"`
	Tags     []string `json:"tags,omitempty"`
	Status   []string `json:"status,omitempty"`
	Severity []string `json:"severity,omitempty"`
	// MetricNames chooses columns of metrics, rows of system_metrics.
	MetricNames []string `json:"metric_names,omitempty"`
}

// TimeRanges are the relative ranges in words, shortest first.
func TimeRanges() []string { return []string{"1h", "6h", "24h", "7d", "30d", "90d"} }

var timeRanges = map[string]time.Duration{
	"1h": time.Hour, "6h": 6 * time.Hour, "24h": 24 * time.Hour,
	"7d": 7 * 24 * time.Hour, "30d": 30 * 24 * time.Hour, "90d": 90 * 24 * time.Hour,
}

// Fault is what is wrong with one field of a request.
type Fault struct {
	// Field is its path, such as filters.servers.
	Field   string
	Message string
}

// Faults are everything that is wrong with a request.
type Faults []Fault

func (f Faults) Error() string {
	words := make([]string, len(f))
	for i, fault := range f {
		words[i] = fault.Field + ": " + fault.Message
	}
	return strings.Join(words, "; ")
}

func (f *Faults) add(field, format string, args ...any) {
	*f = append(*f, Fault{field, fmt.Sprintf(format, args...)})
}

func (f *Faults) oneOf(field, value string, words ...string) {
	if !slices.Contains(words, value) {
		f.add(field, "%q is not one of %s", value, strings.Join(words, ", "))
	}
}

func (f Faults) orNil() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// maxFilterValues bounds each list.
const maxFilterValues = 1000

// metricName is what an extra metric may be called: Prometheus's names, and the dots and dashes of others.
var metricName = regexp.MustCompile(`^[A-Za-z_:][A-Za-z0-9_:.\-/]{0,199}$`)

// normalize sorts the lists, resolves the time range and names every fault that can be seen without the database.
func (f *ExportFilters) normalize(exportType string, source exportSource, now time.Time, faults *Faults) {
	lists := map[string]*[]string{
		"servers": &f.Servers, "groups": &f.Groups, "tags": &f.Tags, "status": &f.Status, "severity": &f.Severity,
		"metric_names": &f.MetricNames,
	}
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		list := lists[name]
		switch field := "filters." + name; {
		case len(*list) == 0:
			*list = nil
		case !slices.Contains(source.filters, name):
			faults.add(field, "means nothing for exports of %s", exportType)
		case len(*list) > maxFilterValues:
			faults.add(field, "%d values, at most %d", len(*list), maxFilterValues)
		default:
			*list = slices.Compact(slices.Sorted(slices.Values(*list)))
		}
	}
	for i, word := range f.Status {
		f.Status[i] = strings.ToLower(word)
		if source.statuses != nil {
			faults.oneOf("filters.status", f.Status[i], source.statuses...)
		}
	}
	for i, word := range f.Severity {
		f.Severity[i] = strings.ToLower(word)
		faults.oneOf("filters.severity", f.Severity[i], "critical", "warning", "info")
	}
	for _, name := range f.MetricNames {
		if !metricName.MatchString(name) {
			faults.add("filters.metric_names", "%q is no name of a metric", name)
		}
	}
	f.resolveTime(exportType, source, now.UTC().Truncate(time.Microsecond), faults)
}

func (f *ExportFilters) resolveTime(exportType string, source exportSource, now time.Time, faults *Faults) {
	given := map[string]bool{"filters.time_range": f.TimeRange != "", "filters.from": f.From != nil, "filters.to": f.To != nil}
	if source.span == "" {
		for _, field := range slices.Sorted(maps.Keys(given)) {
			if given[field] {
				faults.add(field, "means nothing for exports of %s", exportType)
			}
		}
		return
	}
	switch {
	case f.TimeRange != "" && (f.From != nil || f.To != nil):
		faults.add("filters.time_range", "stands beside from or to: one or the other")
		return
	case f.From == nil && f.To != nil:
		faults.add("filters.from", "missing beside to")
		return
	case f.From != nil:
		from, to := f.From.UTC(), now
		if f.To != nil {
			to = f.To.UTC()
		}
		if !from.Before(to) {
			faults.add("filters.to", "not after from")
		}
		f.From, f.To = &from, &to
		return
	case f.TimeRange == "":
		f.TimeRange = source.span
	}
	span, known := timeRanges[f.TimeRange]
	if !known {
		faults.add("filters.time_range", "%q is not one of %s", f.TimeRange, strings.Join(TimeRanges(), ", "))
		return
	}
	from := now.Add(-span)
	f.From, f.To = &from, &now
}

// checkExportFilters names what the organization does not have: an export of nothing is no answer to a mistyped name.
func checkExportFilters(ctx context.Context, tx pgx.Tx, n NewExport) error {
	var faults Faults
	missing := func(field, what string, asked []string, sql string) error {
		if len(asked) == 0 {
			return nil
		}
		rows, err := tx.Query(ctx, `SELECT a FROM unnest($2::text[]) a WHERE NOT EXISTS (`+sql+`) ORDER BY a`, n.Org, asked)
		if err != nil {
			return err
		}
		unknown, err := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, name := range unknown {
			faults.add("filters."+field, "no %s %q", what, name)
		}
		return err
	}
	for _, look := range []struct {
		field, what string
		asked       []string
		sql         string
	}{
		// A removed server keeps its row, and its history can be asked for.
		{"servers", "server", n.Filters.Servers, `SELECT FROM managed_servers WHERE org = $1 AND name = a`},
		{"groups", "group", n.Filters.Groups, `SELECT FROM server_groups WHERE org = $1 AND name = a`},
		{"tags", "server has the tag", n.Filters.Tags, `SELECT FROM managed_servers WHERE org = $1 AND tags @> ARRAY[a]`},
		{"metric_names", "metric", n.Filters.MetricNames, exportSources[n.Type].knowsMetric},
	} {
		if err := missing(look.field, look.what, look.asked, look.sql); err != nil {
			return fmt.Errorf("check filters: %w", err)
		}
	}
	return faults.orNil()
}
