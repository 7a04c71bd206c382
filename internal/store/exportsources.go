package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

var healthWords = []string{"healthy", "degraded", "critical", "unreachable", "unknown"}

var lifecycleWords = []string{"active", "maintenance", "inactive"}

// seriesColumns come from the series and not from its rows.
func seriesColumns(rest ...ExportColumn) []ExportColumn {
	return append([]ExportColumn{
		{Name: "server"}, {Name: "check_name"}, {Name: "kind"}, {Name: "location"},
	}, rest...)
}

func fixed(columns ...ExportColumn) func(ExportFilters) []ExportColumn {
	return func(ExportFilters) []ExportColumn { return columns }
}

var serversSource = exportSource{
	filters:  []string{"servers", "groups", "tags", "status"},
	statuses: append(slices.Clone(healthWords), lifecycleWords...),
	columns: fixed(
		ExportColumn{"server_id", ColumnText, "s.id::text"},
		ExportColumn{"name", ColumnText, "s.name"},
		ExportColumn{"display_name", ColumnText, "s.display_name"},
		ExportColumn{"description", ColumnText, "s.description"},
		ExportColumn{"hostname", ColumnText, "s.hostname"},
		ExportColumn{"api_url", ColumnText, "s.api_url"},
		ExportColumn{"version", ColumnText, "s.version"},
		ExportColumn{"managed_by", ColumnText, "s.managed_by"},
		ExportColumn{"lifecycle", ColumnText, "s.lifecycle"},
		ExportColumn{"health_status", ColumnText, "s.health_status"},
		ExportColumn{"region", ColumnText, "s.region"},
		ExportColumn{"environment", ColumnText, "s.environment"},
		ExportColumn{"tags", ColumnJSON, "to_jsonb(s.tags)::text"},
		ExportColumn{"groups", ColumnJSON, "coalesce(to_jsonb(m.groups), '[]')::text"},
		ExportColumn{"metadata", ColumnJSON, "s.metadata::text"},
		ExportColumn{"last_seen_at", ColumnTime, "s.last_seen_at"},
		ExportColumn{"last_health_check_at", ColumnTime, "s.last_health_check_at"},
		ExportColumn{"created_at", ColumnTime, "s.created_at"},
		ExportColumn{"changed_at", ColumnTime, "s.changed_at"},
	),
	stream: func(ctx context.Context, tx pgx.Tx, e Export, columns []ExportColumn, row func([]any) error) error {
		health, lifecycle := splitStatus(e.Filters.Status)
		return streamQuery(ctx, tx, columns, row, `
			WITH memberships AS (
			    SELECT m.server_id, array_agg(g.name ORDER BY g.name) AS groups
			    FROM v_group_members m JOIN server_groups g ON g.id = m.group_id WHERE m.org = $1 GROUP BY m.server_id)
			SELECT `+selectList(columns)+`
			FROM managed_servers s LEFT JOIN memberships m ON m.server_id = s.id
			WHERE s.org = $1 AND s.removed_at IS NULL AND (`+anyServer+` OR s.name IN (`+pickedServers+`))
			  AND ($5::text[] IS NULL OR s.health_status = ANY ($5)) AND ($6::text[] IS NULL OR s.lifecycle = ANY ($6))
			ORDER BY s.name`, append(serverArgs(e), health, lifecycle)...)
	},
}

// splitStatus tells words of health from words of lifecycle; both kinds together must both be met.
func splitStatus(words []string) (health, lifecycle []string) {
	for _, word := range words {
		if slices.Contains(lifecycleWords, word) {
			lifecycle = append(lifecycle, word)
		} else {
			health = append(health, word)
		}
	}
	return health, lifecycle
}

var healthChecksSource = exportSource{
	filters:  []string{"servers", "groups", "tags", "status"},
	statuses: healthWords,
	span:     "24h",
	columns: fixed(seriesColumns(
		ExportColumn{"scheduled_at", ColumnTime, "r.scheduled_at"},
		ExportColumn{"status", ColumnText, "picket_status_word(r.status)"},
		ExportColumn{"latency_ms", ColumnFloat, "r.latency_us / 1000.0::float8"},
		ExportColumn{"http_status", ColumnInt, "r.http_status::int8"},
		ExportColumn{"reason", ColumnText, "r.reason"},
		ExportColumn{"message", ColumnText, "r.message"},
		ExportColumn{"missed", ColumnBool, "r.missed"},
		ExportColumn{"missed_until", ColumnTime, "r.missed_until"},
		ExportColumn{"on_demand", ColumnBool, "r.on_demand"},
		ExportColumn{"started_at", ColumnTime, "r.started_at"},
		ExportColumn{"instance", ColumnText, "r.instance"},
		ExportColumn{"certificate_not_after", ColumnTime, "r.certificate_not_after"},
		ExportColumn{"connection_reused", ColumnBool, "r.connection_reused"},
		ExportColumn{"details", ColumnJSON, "r.details::text"},
		ExportColumn{"check_id", ColumnText, "r.check_id::text"},
	)...),
	stream: func(ctx context.Context, tx pgx.Tx, e Export, columns []ExportColumn, row func([]any) error) error {
		var statuses []int16
		for _, word := range e.Filters.Status {
			statuses = append(statuses, int16(slices.Index(healthWords, word)+1))
		}
		return streamSeries(ctx, tx, e, "", columns, row, `
			SELECT `+selectList(columns)+` FROM server_health_checks r
			WHERE r.check_id = $1 AND r.location = $2 AND r.org = $3 AND r.scheduled_at >= $4 AND r.scheduled_at < $5
			  AND ($6::smallint[] IS NULL OR r.status = ANY ($6))
			ORDER BY r.scheduled_at`, statuses)
	},
}

// metricExportColumns are the well-known figures, in the source system's order.
var metricExportColumns = []ExportColumn{
	{"cpu_percent", ColumnFloat, "r.cpu_percent"},
	{"memory_percent", ColumnFloat, "r.memory_percent"},
	{"disk_percent", ColumnFloat, "r.disk_percent"},
	{"network_rx_bytes", ColumnInt, "r.network_rx_bytes"},
	{"network_tx_bytes", ColumnInt, "r.network_tx_bytes"},
	{"active_services", ColumnInt, "r.active_services"},
	{"failed_services", ColumnInt, "r.failed_services"},
	{"total_services", ColumnInt, "r.total_services"},
	{"llm_requests", ColumnInt, "r.llm_requests"},
	{"llm_cost_usd", ColumnFloat, "r.llm_cost_usd::float8"},
	{"active_users", ColumnInt, "r.active_users"},
	{"total_users", ColumnInt, "r.total_users"},
}

var metricsSource = exportSource{
	filters: []string{"servers", "groups", "tags", "metric_names"},
	span:    "24h",
	columns: func(f ExportFilters) []ExportColumn {
		columns := seriesColumns(
			ExportColumn{"scheduled_at", ColumnTime, "r.scheduled_at"},
			ExportColumn{"on_demand", ColumnBool, "r.on_demand"},
			ExportColumn{"server_id", ColumnText, "r.server_id::text"},
		)
		if len(f.MetricNames) == 0 {
			return append(append(columns, metricExportColumns...), ExportColumn{"extra", ColumnJSON, "r.extra::text"})
		}
		for _, c := range metricExportColumns {
			if slices.Contains(f.MetricNames, c.Name) {
				columns = append(columns, c)
			}
		}
		extra := 0
		for _, name := range f.MetricNames {
			if isMetricColumn(name) {
				continue
			}
			extra++ // the names are one parameter, $6, and never part of the query
			if slices.ContainsFunc(columns, func(c ExportColumn) bool { return c.Name == name }) {
				name = "extra." + name
			}
			columns = append(columns, ExportColumn{name, ColumnFloat, fmt.Sprintf(
				"CASE jsonb_typeof(r.extra -> ($6::text[])[%[1]d]) WHEN 'number' THEN (r.extra ->> ($6::text[])[%[1]d])::float8 END", extra)})
		}
		return columns
	},
	knowsMetric: `
		SELECT WHERE a = ANY ('{cpu_percent,memory_percent,disk_percent,network_rx_bytes,network_tx_bytes,active_services,failed_services,
		    total_services,llm_requests,llm_cost_usd,active_users,total_users}')
		UNION ALL
		SELECT FROM check_states k CROSS JOIN LATERAL (
		    SELECT m.extra FROM server_metrics_aggregated m WHERE m.check_id = k.check_id AND m.location = k.location
		    ORDER BY m.scheduled_at DESC LIMIT 1) newest
		WHERE k.org = $1 AND k.kind = 'metrics' AND newest.extra ? a`,
	stream: func(ctx context.Context, tx pgx.Tx, e Export, columns []ExportColumn, row func([]any) error) error {
		extra := []string{}
		for _, name := range e.Filters.MetricNames {
			if !isMetricColumn(name) {
				extra = append(extra, name)
			}
		}
		return streamSeries(ctx, tx, e, "metrics", columns, row, `
			SELECT `+selectList(columns)+` FROM server_metrics_aggregated r
			WHERE r.check_id = $1 AND r.location = $2 AND r.org = $3 AND r.scheduled_at >= $4 AND r.scheduled_at < $5
			  AND $6::text[] IS NOT NULL
			ORDER BY r.scheduled_at`, extra)
	},
}

func isMetricColumn(name string) bool {
	return slices.ContainsFunc(metricExportColumns, func(c ExportColumn) bool { return c.Name == name })
}

var systemMetricsSource = exportSource{
	filters: []string{"servers", "groups", "tags", "metric_names"},
	span:    "24h",
	columns: fixed(
		ExportColumn{"time", ColumnTime, "r.time"},
		ExportColumn{"metric_name", ColumnText, "r.metric_name"},
		ExportColumn{"service", ColumnText, "r.service"},
		ExportColumn{"tags", ColumnJSON, "r.tags::text"},
		ExportColumn{"value", ColumnFloat, "r.value"},
	),
	knowsMetric: `SELECT FROM system_metrics WHERE metric_name = a AND org = $1`,
	stream: func(ctx context.Context, tx pgx.Tx, e Export, columns []ExportColumn, row func([]any) error) error {
		// The order of the primary key.
		return streamQuery(ctx, tx, columns, row, `
			SELECT `+selectList(columns)+` FROM system_metrics r
			WHERE r.org = $1 AND r.time >= $5 AND r.time < $6 AND ($7::text[] IS NULL OR r.metric_name = ANY ($7))
			  AND (`+anyServer+` OR r.service IN (`+pickedServers+`))
			ORDER BY r.metric_name, r.service, r.time, r.series`,
			append(serverArgs(e), e.Filters.From, e.Filters.To, e.Filters.MetricNames)...)
	},
}

var alertsSource = exportSource{
	filters:  []string{"servers", "groups", "tags", "status", "severity"},
	statuses: []string{"pending", "open", "acknowledged", "closed"},
	span:     "30d",
	columns: fixed(
		ExportColumn{"alert_id", ColumnText, "r.id::text"},
		ExportColumn{"server", ColumnText, "r.server"},
		ExportColumn{"check_name", ColumnText, "r.check_name"},
		ExportColumn{"location", ColumnText, "r.location"},
		ExportColumn{"kind", ColumnText, "r.kind"},
		ExportColumn{"severity", ColumnText, "r.severity"},
		ExportColumn{"status", ColumnText, "r.state"},
		ExportColumn{"summary", ColumnText, "r.summary"},
		ExportColumn{"reason", ColumnText, "r.reason"},
		ExportColumn{"fingerprint", ColumnText, "r.fingerprint"},
		ExportColumn{"since", ColumnTime, "r.since"},
		ExportColumn{"pending_at", ColumnTime, "r.pending_at"},
		ExportColumn{"opened_at", ColumnTime, "r.opened_at"},
		ExportColumn{"acknowledged_at", ColumnTime, "r.acknowledged_at"},
		ExportColumn{"closed_at", ColumnTime, "r.closed_at"},
		ExportColumn{"trigger_count", ColumnInt, "r.trigger_count"},
		ExportColumn{"details", ColumnJSON, "r.details::text"},
		ExportColumn{"events", ColumnJSON, `(
			SELECT coalesce(jsonb_agg(jsonb_build_object('event_id', v.event_id, 'at', v.at, 'transition', v.transition, 'state', v.state,
			    'kind', v.kind, 'severity', v.severity, 'reason', v.reason, 'summary', v.summary, 'evidence', v.evidence)
			    ORDER BY v.stream_epoch, v.stream_seq), '[]')::text
			FROM alert_events v WHERE v.alert_id = r.id AND v.org = r.org)`},
	),
	stream: func(ctx context.Context, tx pgx.Tx, e Export, columns []ExportColumn, row func([]any) error) error {
		// Alerts that were there at any time of the range.
		return streamQuery(ctx, tx, columns, row, `
			SELECT `+selectList(columns)+` FROM system_alerts r
			WHERE r.org = $1 AND r.pending_at < $6 AND (r.closed_at IS NULL OR r.closed_at >= $5)
			  AND ($7::text[] IS NULL OR r.state = ANY ($7)) AND ($8::text[] IS NULL OR r.severity = ANY ($8))
			  AND (`+anyServer+` OR r.server IN (`+pickedServers+`))
			ORDER BY r.pending_at, r.id DESC`,
			append(serverArgs(e), e.Filters.From, e.Filters.To, e.Filters.Status, e.Filters.Severity)...)
	},
}

var auditSource = exportSource{
	span: "30d",
	columns: fixed(
		ExportColumn{"id", ColumnInt, "r.id"},
		ExportColumn{"at", ColumnTime, "r.at"},
		ExportColumn{"actor", ColumnText, "r.actor"},
		ExportColumn{"actor_name", ColumnText, "r.actor_name"},
		ExportColumn{"role", ColumnText, "r.role"},
		ExportColumn{"action", ColumnText, "r.action"},
		ExportColumn{"target_kind", ColumnText, "r.target_kind"},
		ExportColumn{"target", ColumnText, "r.target"},
		ExportColumn{"request_id", ColumnText, "r.request_id"},
		ExportColumn{"remote", ColumnText, "r.remote"},
		ExportColumn{"before", ColumnJSON, "r.before::text"},
		ExportColumn{"after", ColumnJSON, "r.after::text"},
	),
	stream: func(ctx context.Context, tx pgx.Tx, e Export, columns []ExportColumn, row func([]any) error) error {
		return streamQuery(ctx, tx, columns, row, `
			SELECT `+selectList(columns)+` FROM audit_log r WHERE r.org = $1 AND r.at >= $2 AND r.at < $3 ORDER BY r.id`,
			e.Org, e.Filters.From, e.Filters.To)
	},
}
