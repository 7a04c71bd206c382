-- What people do: operations on many servers, and who acted on alerts.

-- +goose Up
ALTER TABLE system_alerts ADD COLUMN acknowledged_by text NOT NULL DEFAULT '';
COMMENT ON COLUMN system_alerts.acknowledged_by IS 'who took it on; empty: nobody';
ALTER TABLE alert_events ADD COLUMN actor text NOT NULL DEFAULT '';
COMMENT ON COLUMN alert_events.actor IS 'who made the transition, when a person did';
-- Lists of one server's or one state's alerts, newest first.
CREATE INDEX system_alerts_server ON system_alerts (org, server, pending_at DESC, id);

-- When a server was probed, and when what it showed counts: what was seen in maintenance is neither up nor down.
CREATE TABLE server_lifecycles (
    server_id uuid        NOT NULL REFERENCES managed_servers (id) ON DELETE CASCADE,
    since     timestamptz NOT NULL,
    lifecycle text COLLATE "C" NOT NULL,
    PRIMARY KEY (server_id, since)
);
COMMENT ON TABLE server_lifecycles IS 'Lifecycle of a server, or removed, each from since until the next; kept by a trigger of managed_servers.';
INSERT INTO server_lifecycles (server_id, since, lifecycle)
SELECT id, created_at, CASE WHEN removed_at IS NULL THEN lifecycle ELSE 'removed' END FROM managed_servers;
-- +goose StatementBegin
CREATE FUNCTION picket_lifecycle_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now_is text := CASE WHEN NEW.removed_at IS NULL THEN NEW.lifecycle ELSE 'removed' END;
BEGIN
    IF TG_OP = 'INSERT' OR now_is <> (CASE WHEN OLD.removed_at IS NULL THEN OLD.lifecycle ELSE 'removed' END) THEN
        INSERT INTO server_lifecycles (server_id, since, lifecycle) VALUES (NEW.id, clock_timestamp(), now_is)
        ON CONFLICT (server_id, since) DO UPDATE SET lifecycle = excluded.lifecycle;
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER lifecycle_changed AFTER INSERT OR UPDATE OF lifecycle, removed_at ON managed_servers
    FOR EACH ROW EXECUTE FUNCTION picket_lifecycle_changed();

-- Live readers that were away for longer than the stream remembers go on from here. Rows come nearly in this order, so
-- that a few bytes for every hundred pages are enough.
CREATE INDEX server_health_checks_stream ON server_health_checks USING brin (stream_epoch, stream_seq) WITH (autosummarize = on);
CREATE INDEX alert_events_stream ON alert_events (org, stream_epoch, stream_seq);

CREATE VIEW v_fleet_summary AS
SELECT org, count(*) AS total_servers,
       count(*) FILTER (WHERE lifecycle = 'active') AS active_servers,
       count(*) FILTER (WHERE lifecycle = 'maintenance') AS maintenance_servers,
       count(*) FILTER (WHERE lifecycle = 'inactive') AS inactive_servers,
       count(*) FILTER (WHERE health_status = 'healthy') AS healthy_servers,
       count(*) FILTER (WHERE health_status = 'degraded') AS degraded_servers,
       count(*) FILTER (WHERE health_status = 'critical') AS critical_servers,
       count(*) FILTER (WHERE health_status = 'unreachable') AS unreachable_servers,
       count(*) FILTER (WHERE health_status = 'unknown') AS unknown_servers,
       count(DISTINCT nullif(region, '')) AS regions, max(last_health_check_at) AS last_health_check_at
FROM managed_servers WHERE removed_at IS NULL GROUP BY org;
COMMENT ON VIEW v_fleet_summary IS 'Living servers by lifecycle and by health status, per organization.';

CREATE VIEW v_server_health_overview AS
SELECT DISTINCT ON (s.id) s.org, s.id AS server_id, s.name AS server, s.lifecycle, s.health_status, s.last_seen_at,
       k.check_name, k.location, k.scheduled_at, picket_status_word(k.status) AS status, k.since,
       k.latency_us / 1000.0 AS latency_ms, k.reason, k.message
FROM managed_servers s JOIN checks c ON c.server_id = s.id AND c.removed_at IS NULL
JOIN check_states k ON k.check_id = c.id
WHERE s.removed_at IS NULL ORDER BY s.id, k.scheduled_at DESC, k.check_id, k.location;
COMMENT ON VIEW v_server_health_overview IS 'The newest result of each living server.';

CREATE TABLE fleet_operations (
    id                uuid        PRIMARY KEY,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at        timestamptz,
    completed_at      timestamptz,
    cancel_at         timestamptz,
    lease_until       timestamptz NOT NULL DEFAULT '-infinity',
    lease_epoch       bigint      NOT NULL DEFAULT 0,
    total_servers     integer     NOT NULL,
    completed_servers integer     NOT NULL DEFAULT 0,
    failed_servers    integer     NOT NULL DEFAULT 0,
    org               text COLLATE "C" NOT NULL REFERENCES organizations (slug),
    operation_type    text COLLATE "C" NOT NULL
                      CHECK (operation_type IN ('tag_add', 'tag_remove', 'maintenance_on', 'maintenance_off', 'check_now')),
    status            text COLLATE "C" NOT NULL DEFAULT 'pending'
                      CHECK (status IN ('pending', 'running', 'completed', 'partial', 'failed', 'canceled')),
    lease_owner       text        NOT NULL DEFAULT '',
    initiated_by      text COLLATE "C" NOT NULL,
    initiated_name    text        NOT NULL,
    initiated_role    text COLLATE "C" NOT NULL,
    request_id        text COLLATE "C" NOT NULL DEFAULT '',
    error_summary     text        NOT NULL DEFAULT '',
    selection         jsonb       NOT NULL,
    parameters        jsonb       NOT NULL,
    CHECK ((completed_at IS NOT NULL) = (status IN ('completed', 'partial', 'failed', 'canceled')))
) WITH (fillfactor = 70); -- leases and counts move
CREATE INDEX fleet_operations_recent ON fleet_operations (org, created_at DESC, id DESC);
CREATE INDEX fleet_operations_open ON fleet_operations (created_at) WHERE status IN ('pending', 'running');
COMMENT ON TABLE fleet_operations IS 'What was asked for many servers at once. Whoever holds the lease does it; when it dies another goes on with the servers that are left.';
COMMENT ON COLUMN fleet_operations.lease_epoch IS 'grows with every claim: a former holder can finish nothing';
COMMENT ON COLUMN fleet_operations.selection IS 'what the servers were chosen by: server_ids, group_ids, filter';
COMMENT ON COLUMN fleet_operations.initiated_by IS 'id of the token';

CREATE TABLE fleet_operation_servers (
    operation_id uuid    NOT NULL REFERENCES fleet_operations (id) ON DELETE CASCADE,
    position     integer NOT NULL,
    server_id    uuid    NOT NULL,
    finished_at  timestamptz,
    status       text COLLATE "C" NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'completed', 'failed', 'canceled')),
    server       text COLLATE "C" NOT NULL,
    error        text NOT NULL DEFAULT '',
    result       jsonb,
    PRIMARY KEY (operation_id, position),
    UNIQUE (operation_id, server_id),
    CHECK ((finished_at IS NULL) = (status = 'pending'))
) WITH (fillfactor = 70);
COMMENT ON TABLE fleet_operation_servers IS 'The servers of an operation as they were when it was asked for, and what became of each.';

-- What processes did, so that totals survive them. One row for each life of a process, and one of no instance for all
-- that were merged.
CREATE TABLE worker_totals (
    started_at            timestamptz NOT NULL,
    last_run              timestamptz,
    heard_at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    performed             bigint      NOT NULL,
    successful            bigint      NOT NULL,
    failed                bigint      NOT NULL,
    samples               bigint      NOT NULL,
    interval_seconds      double precision NOT NULL DEFAULT 0,
    last_duration_seconds double precision NOT NULL DEFAULT 0,
    service               text COLLATE "C" NOT NULL,
    location              text COLLATE "C" NOT NULL,
    instance              text COLLATE "C" NOT NULL,
    PRIMARY KEY (service, location, instance, started_at)
) WITH (fillfactor = 50);
COMMENT ON TABLE worker_totals IS 'Figures of probers and collectors by their own words, written by the API as it hears them; counts only grow.';

-- Browsers cannot send a header with a stream: a ticket opens one, once, for whoever has the token.
CREATE TABLE live_tickets (
    expires_at timestamptz NOT NULL,
    token_id   text COLLATE "C" NOT NULL REFERENCES api_tokens (id) ON DELETE CASCADE,
    hash       bytea PRIMARY KEY
);
CREATE INDEX live_tickets_token ON live_tickets (token_id);
COMMENT ON COLUMN live_tickets.hash IS 'SHA-256 of the ticket';
