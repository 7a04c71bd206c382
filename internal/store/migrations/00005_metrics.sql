-- What servers and Picket's own parts measured, and its roll-ups.

-- +goose Up

-- Cumulative counters in order of time: {first reading, last reading, increase between them}. A reading below the one
-- before is a restart, and all of it is new. One aggregate makes that of readings, the other joins neighbours.
-- +goose StatementBegin
CREATE FUNCTION picket_increase(before numeric, after numeric) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN after >= before THEN after - before ELSE after END
$$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION picket_counter_step(state numeric[], reading numeric) RETURNS numeric[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF reading IS NULL THEN
        RETURN state;
    ELSIF state IS NULL THEN
        RETURN ARRAY[reading, reading, 0];
    ELSIF reading >= state[2] THEN
        RETURN ARRAY[state[1], reading, state[3] + reading - state[2]];
    END IF;
    RETURN ARRAY[state[1], reading, state[3] + reading];
END
$$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION picket_counter_join(state numeric[], other numeric[]) RETURNS numeric[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF other IS NULL THEN
        RETURN state;
    ELSIF state IS NULL THEN
        RETURN other;
    ELSIF other[1] >= state[2] THEN
        RETURN ARRAY[state[1], other[2], state[3] + other[3] + other[1] - state[2]];
    END IF;
    RETURN ARRAY[state[1], other[2], state[3] + other[3] + other[1]];
END
$$;
-- +goose StatementEnd
CREATE AGGREGATE picket_counter(numeric) (SFUNC = picket_counter_step, STYPE = numeric[], PARALLEL = SAFE);
CREATE AGGREGATE picket_counters(numeric[]) (SFUNC = picket_counter_join, STYPE = numeric[], PARALLEL = SAFE);

-- Both tables of facts. No foreign keys, wide columns first, as server_health_checks.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE $table$
    CREATE TABLE server_metrics_aggregated (
        check_id         uuid        NOT NULL,
        server_id        uuid        NOT NULL,
        scheduled_at     timestamptz NOT NULL,
        stream_epoch     bigint      NOT NULL,
        stream_seq       bigint      NOT NULL,
        cpu_percent      double precision,
        memory_percent   double precision,
        disk_percent     double precision,
        network_rx_bytes bigint CHECK (network_rx_bytes >= 0),
        network_tx_bytes bigint CHECK (network_tx_bytes >= 0),
        active_services  bigint,
        failed_services  bigint,
        total_services   bigint,
        llm_requests     bigint CHECK (llm_requests >= 0),
        active_users     bigint,
        total_users      bigint,
        on_demand        boolean     NOT NULL DEFAULT false,
        org              text COLLATE "C" NOT NULL,
        location         text COLLATE "C" NOT NULL,
        period           text COLLATE "C" NOT NULL DEFAULT '1m',
        llm_cost_usd     numeric CHECK (llm_cost_usd >= 0),
        extra            jsonb,
        PRIMARY KEY (check_id, location, scheduled_at)
    )
    $table$ || CASE picket_mode() WHEN 'plain' THEN 'PARTITION BY RANGE (scheduled_at)' ELSE '' END;

    EXECUTE $table$
    CREATE TABLE system_metrics (
        series      uuid        NOT NULL,
        time        timestamptz NOT NULL,
        value       double precision NOT NULL,
        org         text COLLATE "C" NOT NULL,
        metric_name text COLLATE "C" NOT NULL,
        service     text COLLATE "C" NOT NULL,
        tags        jsonb       NOT NULL DEFAULT '{}',
        PRIMARY KEY (metric_name, service, time, series)
    )
    $table$ || CASE picket_mode() WHEN 'plain' THEN 'PARTITION BY RANGE (time)' ELSE '' END;

    IF picket_mode() = 'timescale' THEN
        PERFORM create_hypertable('server_metrics_aggregated', 'scheduled_at',
                                  chunk_time_interval => interval '1 day', create_default_indexes => false);
        ALTER TABLE server_metrics_aggregated SET (
            timescaledb.compress,
            timescaledb.compress_segmentby = 'check_id, location',
            timescaledb.compress_orderby   = 'scheduled_at DESC');
        PERFORM create_hypertable('system_metrics', 'time',
                                  chunk_time_interval => interval '1 hour', create_default_indexes => false);
        ALTER TABLE system_metrics SET (
            timescaledb.compress,
            timescaledb.compress_segmentby = 'metric_name, service',
            timescaledb.compress_orderby   = 'time DESC, series');
        -- As with results: not before the last late row can have come.
        PERFORM add_compression_policy('server_metrics_aggregated', interval '26 hours');
        PERFORM add_compression_policy('system_metrics', interval '26 hours');
        PERFORM add_retention_policy('server_metrics_aggregated', interval '90 days');
        PERFORM add_retention_policy('system_metrics', interval '7 days');
    END IF;
END
$$;
-- +goose StatementEnd
-- Roll-ups and refreshes read all of a stretch of time, which no key serves. Rows come nearly in order of time, and a BRIN
-- index costs next to nothing.
CREATE INDEX server_metrics_aggregated_time ON server_metrics_aggregated USING brin (scheduled_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX system_metrics_time ON system_metrics USING brin (time) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX system_metrics_name_time ON system_metrics (metric_name, time DESC);
CREATE INDEX system_metrics_service_time ON system_metrics (service, time DESC) WHERE service <> '';

COMMENT ON TABLE server_metrics_aggregated IS 'What a server showed at a tick. Identity (check_id, location, scheduled_at): the first one stays.';
COMMENT ON COLUMN server_metrics_aggregated.period IS 'always 1m, the word for a reading as it came; 5m, 1h and 1d are views of their own';
COMMENT ON COLUMN server_metrics_aggregated.network_rx_bytes IS 'cumulative reading, like network_tx_bytes, llm_requests and llm_cost_usd: what was used is the difference of two; one below the last is a restart';
COMMENT ON COLUMN server_metrics_aggregated.llm_cost_usd IS 'US dollars spent since the server started counting, exactly as it said';
COMMENT ON COLUMN server_metrics_aggregated.extra IS 'everything else that it showed, and well-known figures that do not fit their column';
COMMENT ON TABLE system_metrics IS 'Figures of Picket''s own parts, and the counters that health bodies show (service = server, tags check and location).';
COMMENT ON COLUMN system_metrics.series IS 'half of the SHA-256 of organization, service, name and tags; with time the identity of a figure: the first one stays';

-- Roll-ups of server metrics. For each of the eight gauges a bucket has the sum, the count and the maximum, so that
-- larger buckets are made of smaller ones exactly, and for each of the four counters {first, last, increase}.
--   server_metrics_<p>_sums   buckets in that form: a continuous aggregate, or stored ones and the rest from raw rows
--   server_metrics_<p>        what people read: the names of server_metrics_aggregated
-- In plain mode the writer's job calls picket_roll(<p>, bucket) for buckets named in rollup_log.
CREATE TABLE rollup_log (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bucket timestamptz NOT NULL,
    rollup text COLLATE "C" NOT NULL
);
CREATE INDEX rollup_log_bucket ON rollup_log (rollup, bucket);
COMMENT ON TABLE rollup_log IS 'Plain mode: buckets with rows that no roll-up has seen, written in the transaction of the rows. Rows are seen with their entry or not at all, so that none is forgotten, however late.';
CREATE TABLE rollup_state (
    rollup       text COLLATE "C" PRIMARY KEY,
    rolled_until timestamptz NOT NULL DEFAULT '-infinity'
);
COMMENT ON COLUMN rollup_state.rolled_until IS 'plain mode: buckets before are read from the roll-up, those after from what it is made of';
INSERT INTO rollup_state (rollup) VALUES ('server_metrics_5m'), ('server_metrics_1h'), ('server_metrics_1d'), ('system_metrics_hourly');
-- +goose StatementBegin
CREATE FUNCTION picket_rolled_until(of text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT rolled_until FROM rollup_state WHERE rollup = of
$$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
DECLARE
    gauges   constant text[] := ARRAY['cpu_percent', 'memory_percent', 'disk_percent', 'active_services', 'failed_services',
                                      'total_services', 'active_users', 'total_users'];
    counters constant text[] := ARRAY['network_rx_bytes', 'network_tx_bytes', 'llm_requests', 'llm_cost_usd'];
    keys     constant text := 'org, server_id, check_id, location';
    columns text; definitions text; updates text;
    of_rows text; of_sums text; readable text;
    name text; source text; source_time text; list text; width interval;
BEGIN
    SELECT string_agg(format('%1$s_sum, %1$s_n, %1$s_max', g), ', '),
           string_agg(format('%1$s_sum double precision, %1$s_n bigint NOT NULL, %1$s_max double precision', g), ', '),
           string_agg(format('%1$s_sum = excluded.%1$s_sum, %1$s_n = excluded.%1$s_n, %1$s_max = excluded.%1$s_max', g), ', '),
           string_agg(format('sum(%1$s)::double precision AS %1$s_sum, count(%1$s) AS %1$s_n, max(%1$s)::double precision AS %1$s_max', g), ', '),
           string_agg(format('sum(%1$s_sum) AS %1$s_sum, sum(%1$s_n)::bigint AS %1$s_n, max(%1$s_max) AS %1$s_max', g), ', '),
           string_agg(format('%1$s_sum / nullif(%1$s_n, 0) AS %1$s, %1$s_max', g), ', ')
      INTO columns, definitions, updates, of_rows, of_sums, readable FROM unnest(gauges) g;
    SELECT concat_ws(', ', columns, string_agg(c, ', ')),
           concat_ws(', ', definitions, string_agg(c || ' numeric[]', ', ')),
           concat_ws(', ', updates, string_agg(format('%1$s = excluded.%1$s', c), ', ')),
           concat_ws(', ', of_rows, string_agg(format('picket_counter(%1$s::numeric ORDER BY scheduled_at) AS %1$s', c), ', ')),
           concat_ws(', ', of_sums, string_agg(format('picket_counters(%1$s ORDER BY bucket) AS %1$s', c), ', ')),
           concat_ws(', ', readable, string_agg(format('%1$s[2] AS %1$s, %1$s[1] AS %1$s_first, %1$s[3] AS %1$s_increase', c), ', '))
      INTO columns, definitions, updates, of_rows, of_sums, readable FROM unnest(counters) c;

    FOR name, source, source_time, width IN VALUES
        ('server_metrics_5m', 'server_metrics_aggregated', 'scheduled_at', interval '5 minutes'),
        ('server_metrics_1h', 'server_metrics_5m_sums', 'bucket', interval '1 hour'),
        ('server_metrics_1d', 'server_metrics_1h_sums', 'bucket', interval '1 day')
    LOOP
        list := CASE source_time WHEN 'bucket' THEN 'sum(samples)::bigint AS samples, ' || of_sums
                                 ELSE 'count(*) AS samples, ' || of_rows END;
        IF picket_mode() = 'timescale' THEN
            EXECUTE format('CREATE MATERIALIZED VIEW %s_sums WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
                SELECT time_bucket(interval %L, %s) AS bucket, %s, %s FROM %s GROUP BY 1, %s WITH NO DATA',
                name, width, source_time, keys, list, source, keys);
        ELSE
            EXECUTE format('CREATE TABLE %s_stored (bucket timestamptz NOT NULL, org text COLLATE "C" NOT NULL, server_id uuid NOT NULL,
                check_id uuid NOT NULL, location text COLLATE "C" NOT NULL, samples bigint NOT NULL, %s,
                PRIMARY KEY (check_id, location, bucket)) PARTITION BY RANGE (bucket)', name, definitions);
            EXECUTE format('CREATE INDEX ON %s_stored USING brin (bucket) WITH (pages_per_range = 32, autosummarize = on)', name);
            EXECUTE format('CREATE FUNCTION picket_%1$s(since timestamptz, until timestamptz) RETURNS SETOF %1$s_stored
                LANGUAGE sql STABLE AS $f$
                SELECT date_bin(interval %2$L, %3$s, timestamptz ''2000-01-01 00:00:00+00'') AS bucket, %4$s, %5$s
                FROM %6$s WHERE %3$s >= since AND %3$s < until GROUP BY 1, %4$s $f$',
                name, width, source_time, keys, list, source);
            EXECUTE format('CREATE FUNCTION picket_roll_%1$s(since timestamptz) RETURNS bigint LANGUAGE plpgsql AS $f$
                DECLARE touched bigint;
                BEGIN
                    INSERT INTO %1$s_stored (bucket, %2$s, samples, %3$s)
                    SELECT bucket, %2$s, samples, %3$s FROM picket_%1$s(since, since + interval %4$L)
                    ORDER BY check_id, location
                    ON CONFLICT (check_id, location, bucket) DO UPDATE SET samples = excluded.samples, %5$s;
                    GET DIAGNOSTICS touched = ROW_COUNT;
                    RETURN touched;
                END $f$', name, keys, columns, width, updates);
            EXECUTE format('CREATE VIEW %1$s_sums AS
                SELECT * FROM %1$s_stored WHERE bucket < picket_rolled_until(%1$L)
                UNION ALL SELECT * FROM picket_%1$s(picket_rolled_until(%1$L), ''infinity'')', name);
        END IF;
        EXECUTE format('CREATE VIEW %s AS SELECT %s, bucket AS scheduled_at, text %L AS period, samples, %s FROM %s_sums',
            name, keys, right(name, 2), readable, name);
        EXECUTE format('COMMENT ON VIEW %s IS %L', name,
            'Roll-up of server_metrics_aggregated: gauges as average and _max; counters as reading at the end, _first, and _increase between the two.');
    END LOOP;

    IF picket_mode() = 'timescale' THEN
        CREATE MATERIALIZED VIEW system_metrics_hourly WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
            SELECT time_bucket(interval '1 hour', time) AS bucket, org, metric_name, service, tags, series, count(*) AS samples,
                   avg(value) AS avg_value, max(value) AS max_value, min(value) AS min_value
            FROM system_metrics GROUP BY 1, org, metric_name, service, tags, series WITH NO DATA;
        -- Each reaches back over what can still come late, and less far than rows are kept that it is made of.
        PERFORM add_continuous_aggregate_policy('server_metrics_5m_sums', start_offset => interval '26 hours',
            end_offset => interval '5 minutes', schedule_interval => interval '5 minutes');
        PERFORM add_continuous_aggregate_policy('server_metrics_1h_sums', start_offset => interval '28 hours',
            end_offset => interval '10 minutes', schedule_interval => interval '15 minutes');
        PERFORM add_continuous_aggregate_policy('server_metrics_1d_sums', start_offset => interval '4 days',
            end_offset => interval '1 hour', schedule_interval => interval '1 hour');
        PERFORM add_continuous_aggregate_policy('system_metrics_hourly', start_offset => interval '28 hours',
            end_offset => interval '5 minutes', schedule_interval => interval '15 minutes');
        PERFORM add_retention_policy('server_metrics_5m_sums', interval '400 days');
        PERFORM add_retention_policy('server_metrics_1h_sums', interval '800 days');
        PERFORM add_retention_policy('server_metrics_1d_sums', interval '1830 days');
        PERFORM add_retention_policy('system_metrics_hourly', interval '400 days');
    ELSE
        CREATE TABLE system_metrics_hourly_stored (
            bucket timestamptz NOT NULL, org text COLLATE "C" NOT NULL, metric_name text COLLATE "C" NOT NULL,
            service text COLLATE "C" NOT NULL, tags jsonb NOT NULL, series uuid NOT NULL, samples bigint NOT NULL,
            avg_value double precision NOT NULL, max_value double precision NOT NULL, min_value double precision NOT NULL,
            PRIMARY KEY (metric_name, service, bucket, series)) PARTITION BY RANGE (bucket);
        CREATE FUNCTION picket_system_metrics_hourly(since timestamptz, until timestamptz) RETURNS SETOF system_metrics_hourly_stored
        LANGUAGE sql STABLE AS $f$
            SELECT date_bin(interval '1 hour', time, timestamptz '2000-01-01 00:00:00+00') AS bucket, org, metric_name, service, tags, series,
                   count(*) AS samples, avg(value) AS avg_value, max(value) AS max_value, min(value) AS min_value
            FROM system_metrics WHERE time >= since AND time < until GROUP BY 1, org, metric_name, service, tags, series
        $f$;
        CREATE FUNCTION picket_roll_system_metrics_hourly(since timestamptz) RETURNS bigint LANGUAGE plpgsql AS $f$
        DECLARE touched bigint;
        BEGIN
            INSERT INTO system_metrics_hourly_stored SELECT * FROM picket_system_metrics_hourly(since, since + interval '1 hour')
            ORDER BY metric_name, service, series
            ON CONFLICT (metric_name, service, bucket, series) DO UPDATE SET samples = excluded.samples,
                avg_value = excluded.avg_value, max_value = excluded.max_value, min_value = excluded.min_value;
            GET DIAGNOSTICS touched = ROW_COUNT;
            RETURN touched;
        END $f$;
        CREATE VIEW system_metrics_hourly AS
            SELECT * FROM system_metrics_hourly_stored WHERE bucket < picket_rolled_until('system_metrics_hourly')
            UNION ALL SELECT * FROM picket_system_metrics_hourly(picket_rolled_until('system_metrics_hourly'), 'infinity');
    END IF;
END
$$;
-- +goose StatementEnd

-- The newest figure of each series.
CREATE VIEW system_metrics_latest AS
SELECT DISTINCT ON (metric_name, service, series) time, org, metric_name, service, tags, value
FROM system_metrics WHERE time > now() - interval '15 minutes'
ORDER BY metric_name, service, series, time DESC;
-- The last five minutes of each.
CREATE VIEW system_metrics_recent AS
SELECT org, metric_name, service, tags, avg(value) AS avg_value, max(value) AS max_value, min(value) AS min_value, count(*) AS sample_count
FROM system_metrics WHERE time > now() - interval '5 minutes'
GROUP BY org, metric_name, service, tags;

CREATE INDEX system_alerts_closed ON system_alerts (closed_at) WHERE state = 'closed'; -- they expire

-- How far a consumer has stored its stream, for gaps after a restart.
CREATE TABLE stream_positions (
    stream       text COLLATE "C" NOT NULL,
    consumer     text COLLATE "C" NOT NULL,
    stream_epoch bigint      NOT NULL,
    stream_seq   bigint      NOT NULL,
    stored_at    timestamptz NOT NULL,
    PRIMARY KEY (stream, consumer)
) WITH (fillfactor = 50);
COMMENT ON TABLE stream_positions IS 'Newest sequence that a consumer has stored, written every few seconds and only forward. PICKET_EVENTS has check_states for that.';
