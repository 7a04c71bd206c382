-- Roll-ups that are read as they are asked for, and what costs are added up from.

-- +goose Up

-- How far a roll-up goes is looked up once for a query. As a function it was called for every row that a condition was
-- checked on, which was most of what reading many servers cost.
-- +goose StatementBegin
DO $$
DECLARE
    name text; source text; at text;
BEGIN
    IF picket_mode() = 'timescale' THEN
        RETURN;
    END IF;
    FOR name, at IN VALUES ('server_metrics_5m_sums', 'scheduled_at'), ('server_metrics_1h_sums', 'bucket'),
        ('server_metrics_1d_sums', 'bucket'), ('system_metrics_hourly', 'time')
    LOOP
        -- The rest is the query that rolls up, from there on.
        source := replace(name, '_sums', '');
        EXECUTE format('CREATE OR REPLACE VIEW %s AS
            SELECT * FROM %s_stored WHERE bucket < (SELECT rolled_until FROM rollup_state WHERE rollup = %L)
            UNION ALL %s', name, source, source,
            regexp_replace((SELECT prosrc FROM pg_proc WHERE proname = 'picket_' || source),
                at || ' >= since AND ' || at || ' < until',
                format('%s >= (SELECT rolled_until FROM rollup_state WHERE rollup = %L)', at, source)));
    END LOOP;
    DROP FUNCTION picket_rolled_until(text);
END
$$;
-- +goose StatementEnd

-- Costs are read of all servers at once, from few columns of wide rows, and many servers have none.
-- +goose StatementBegin
DO $$
BEGIN
    IF picket_mode() = 'plain' THEN
        CREATE INDEX server_metrics_1d_costs ON server_metrics_1d_stored (bucket, org) INCLUDE (check_id, location, server_id, llm_cost_usd)
            WHERE llm_cost_usd IS NOT NULL;
        CREATE INDEX server_metrics_1h_costs ON server_metrics_1h_stored (bucket, org) INCLUDE (check_id, location, server_id, llm_cost_usd)
            WHERE llm_cost_usd IS NOT NULL;
        CREATE VIEW server_cost_steps AS
        WITH rolled AS (
            SELECT max(rolled_until) FILTER (WHERE rollup = 'server_metrics_1d') AS days,
                   max(rolled_until) FILTER (WHERE rollup = 'server_metrics_1h') AS hours,
                   max(rolled_until) FILTER (WHERE rollup = 'server_metrics_5m') AS minutes
            FROM rollup_state)
        SELECT org, server_id, check_id, location, bucket AS at, llm_cost_usd AS cost
        FROM server_metrics_1d_stored WHERE bucket < (SELECT days FROM rolled) AND llm_cost_usd IS NOT NULL
        UNION ALL
        SELECT org, server_id, check_id, location, bucket, llm_cost_usd
        FROM server_metrics_1h_stored WHERE bucket >= (SELECT days FROM rolled) AND bucket < (SELECT hours FROM rolled) AND llm_cost_usd IS NOT NULL
        UNION ALL
        SELECT org, server_id, check_id, location, bucket, llm_cost_usd
        FROM server_metrics_5m_stored WHERE bucket >= (SELECT hours FROM rolled) AND bucket < (SELECT minutes FROM rolled) AND llm_cost_usd IS NOT NULL
        UNION ALL
        SELECT org, server_id, check_id, location, scheduled_at, ARRAY[llm_cost_usd, llm_cost_usd, 0]
        FROM server_metrics_aggregated WHERE scheduled_at >= (SELECT minutes FROM rolled) AND llm_cost_usd IS NOT NULL;
    ELSE
        CREATE VIEW server_cost_steps AS
        SELECT org, server_id, check_id, location, bucket AS at, llm_cost_usd AS cost
        FROM server_metrics_1d_sums WHERE bucket < date_trunc('day', now(), 'UTC') AND llm_cost_usd IS NOT NULL
        UNION ALL
        SELECT org, server_id, check_id, location, bucket, llm_cost_usd
        FROM server_metrics_1h_sums WHERE bucket >= date_trunc('day', now(), 'UTC') AND llm_cost_usd IS NOT NULL;
    END IF;
END
$$;
-- +goose StatementEnd
COMMENT ON VIEW server_cost_steps IS '{first, last, increase} of llm_cost_usd of each server, in the largest buckets that are finished: days, then hours and what is smaller.';
