-- What people do: operations on many servers, and who acted on alerts.

-- +goose Up
ALTER TABLE system_alerts ADD COLUMN acknowledged_by text NOT NULL DEFAULT '';
COMMENT ON COLUMN system_alerts.acknowledged_by IS 'who took it on; empty: nobody';
ALTER TABLE alert_events ADD COLUMN actor text NOT NULL DEFAULT '';
COMMENT ON COLUMN alert_events.actor IS 'who made the transition, when a person did';
-- Lists of one server's or one state's alerts, newest first.
CREATE INDEX system_alerts_server ON system_alerts (org, server, pending_at DESC, id);

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
