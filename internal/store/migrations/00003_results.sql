-- What was seen: history, current state, and where the history has holes.

-- +goose Up

-- One row per tick that was looked at, or that is known to have been missed. Its key leads with the check: it is the
-- identity of a result and serves a check's history. No foreign keys: a result outlives what it is about, and the
-- fact path pays for nothing that it does not need. Wide columns first, so that no padding is stored.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE $table$
    CREATE TABLE server_health_checks (
        check_id              uuid        NOT NULL,
        scheduled_at          timestamptz NOT NULL,
        started_at            timestamptz,
        missed_until          timestamptz,
        certificate_not_after timestamptz,
        stream_epoch          bigint      NOT NULL,
        stream_seq            bigint      NOT NULL,
        latency_us            integer     NOT NULL CHECK (latency_us >= 0),
        revision              integer     NOT NULL,
        status                smallint    NOT NULL CHECK (status BETWEEN 1 AND 5),
        http_status           smallint,
        missed                boolean     NOT NULL,
        on_demand             boolean     NOT NULL,
        connection_reused     boolean     NOT NULL,
        org                   text COLLATE "C" NOT NULL,
        location              text COLLATE "C" NOT NULL,
        instance              text COLLATE "C" NOT NULL,
        reason                text COLLATE "C" NOT NULL,
        message               text        NOT NULL,
        details               jsonb,
        PRIMARY KEY (check_id, location, scheduled_at)
    )
    $table$ || CASE picket_mode() WHEN 'plain' THEN 'PARTITION BY RANGE (scheduled_at)' ELSE '' END;

    IF picket_mode() = 'timescale' THEN
        PERFORM create_hypertable('server_health_checks', 'scheduled_at',
                                  chunk_time_interval => interval '1 day', create_default_indexes => false);
        ALTER TABLE server_health_checks SET (
            timescaledb.compress,
            timescaledb.compress_segmentby = 'check_id, location',
            timescaledb.compress_orderby   = 'scheduled_at DESC');
        -- Rows may be 25 hours late, and a late row into the columnstore costs a hundred times as much: a chunk goes
        -- there when none can come any more.
        PERFORM add_compression_policy('server_health_checks', interval '26 hours');
        PERFORM add_retention_policy('server_health_checks', interval '400 days');
    END IF;
END
$$;
-- +goose StatementEnd
COMMENT ON TABLE server_health_checks IS 'Results of ticks. Identity (check_id, location, scheduled_at): a real outcome replaces a missed one, nothing replaces a real one.';
COMMENT ON COLUMN server_health_checks.status IS '1 healthy, 2 degraded, 3 critical, 4 unreachable, 5 unknown (picket.v1.Status)';
COMMENT ON COLUMN server_health_checks.latency_us IS 'microseconds; 0 when nothing was sent';
COMMENT ON COLUMN server_health_checks.missed IS 'we did not look; reason says why';
COMMENT ON COLUMN server_health_checks.missed_until IS 'the ticks from scheduled_at to this one were missed in a row; kept when a real outcome replaces the first';
COMMENT ON COLUMN server_health_checks.stream_seq IS 'sequence in PICKET_EVENTS; with stream_epoch (its creation, Unix nanoseconds) the order in which results arrived';

-- Current state of a check at a location, and the names it goes by (they are immutable, so that history can be read
-- after the check is gone). No index on what changes and half of each page free: updates stay on their page.
CREATE TABLE check_states (
    check_id     uuid        NOT NULL,
    scheduled_at timestamptz NOT NULL,
    since        timestamptz NOT NULL,
    checked_at   timestamptz,
    seen_at      timestamptz,
    stream_epoch bigint      NOT NULL,
    stream_seq   bigint      NOT NULL,
    latency_us   integer     NOT NULL,
    status       smallint    NOT NULL CHECK (status BETWEEN 1 AND 5),
    http_status  smallint,
    missed       boolean     NOT NULL,
    org          text COLLATE "C" NOT NULL,
    location     text COLLATE "C" NOT NULL,
    server       text COLLATE "C" NOT NULL,
    check_name   text COLLATE "C" NOT NULL,
    kind         text COLLATE "C" NOT NULL,
    reason       text COLLATE "C" NOT NULL,
    message      text        NOT NULL,
    PRIMARY KEY (check_id, location)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
COMMENT ON COLUMN check_states.scheduled_at IS 'tick of the newest result; the row only moves forward in it';
COMMENT ON COLUMN check_states.since IS 'tick with which the status began';
COMMENT ON COLUMN check_states.checked_at IS 'newest tick at which we looked';
COMMENT ON COLUMN check_states.seen_at IS 'newest tick that was answered: healthy, degraded or critical';

-- What a consumer never got to see.
CREATE TABLE stream_gaps (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream       text        NOT NULL,
    consumer     text        NOT NULL,
    stream_epoch bigint      NOT NULL,
    from_seq     bigint      NOT NULL,
    to_seq       bigint      NOT NULL,
    from_time    timestamptz NOT NULL,
    to_time      timestamptz NOT NULL,
    reason       text        NOT NULL,
    noted_at     timestamptz NOT NULL DEFAULT now(),
    CHECK (from_seq <= to_seq AND from_time <= to_time),
    UNIQUE (stream, consumer, stream_epoch, from_seq, to_seq)
);
CREATE INDEX stream_gaps_time ON stream_gaps (to_time);
COMMENT ON TABLE stream_gaps IS 'Sequences, both included, that were gone from a stream before a consumer read them, between two stream times.';

-- For people: words, names, milliseconds.
CREATE VIEW v_server_health_checks AS
SELECT r.org, coalesce(k.server, '') AS server, coalesce(k.check_name, '') AS check_name, coalesce(k.kind, '') AS kind,
       r.location, r.scheduled_at, picket_status_word(r.status) AS status, r.latency_us / 1000.0 AS latency_ms,
       r.http_status, r.reason, r.message, r.missed, r.missed_until, r.on_demand, r.started_at, r.instance,
       r.certificate_not_after, r.connection_reused, r.details, r.revision, r.check_id, r.stream_epoch, r.stream_seq
FROM server_health_checks r
LEFT JOIN check_states k ON k.check_id = r.check_id AND k.location = r.location;

CREATE VIEW v_check_states AS
SELECT org, server, check_name, kind, location, picket_status_word(status) AS status, since, scheduled_at, checked_at,
       seen_at, latency_us / 1000.0 AS latency_ms, http_status, reason, message, missed, check_id
FROM check_states;
