-- Alerts, their history, and where the alerter is in the event stream.

-- +goose Up

-- Only the alerter writes here; people act by commands through the stream. All times but since are stream times.
CREATE TABLE system_alerts (
    id              uuid        PRIMARY KEY,
    since           timestamptz NOT NULL,
    pending_at      timestamptz NOT NULL,
    opened_at       timestamptz,
    acknowledged_at timestamptz,
    closed_at       timestamptz,
    trigger_count   bigint      NOT NULL,
    check_id        uuid,
    org             text COLLATE "C" NOT NULL,
    fingerprint     text COLLATE "C" NOT NULL,
    kind            text COLLATE "C" NOT NULL,
    severity        text COLLATE "C" NOT NULL CHECK (severity IN ('critical', 'warning', 'info')),
    state           text COLLATE "C" NOT NULL CHECK (state IN ('pending', 'open', 'acknowledged', 'closed')),
    server          text COLLATE "C" NOT NULL,
    check_name      text COLLATE "C" NOT NULL,
    location        text COLLATE "C" NOT NULL,
    reason          text COLLATE "C" NOT NULL,
    summary         text        NOT NULL,
    details         jsonb       NOT NULL,
    CHECK ((state = 'closed') = (closed_at IS NOT NULL))
);
CREATE UNIQUE INDEX system_alerts_active ON system_alerts (org, fingerprint) WHERE state <> 'closed';
CREATE INDEX system_alerts_recent ON system_alerts (org, pending_at DESC, id);
COMMENT ON TABLE system_alerts IS 'Conditions from their first bad result to their end, one per incident; at most one of a fingerprint is not closed.';
COMMENT ON COLUMN system_alerts.since IS 'tick of the first bad result; of a prober that is gone, when it was last heard';
COMMENT ON COLUMN system_alerts.opened_at IS 'null when it cleared before it opened: no incident';
COMMENT ON COLUMN system_alerts.trigger_count IS 'bad results up to the last transition';
COMMENT ON COLUMN system_alerts.reason IS 'why it closed: recovered, cleared, removed, manual';
COMMENT ON COLUMN system_alerts.details IS 'evidence of the last transition';

-- What happened to alerts. Rows are added and never changed.
CREATE TABLE alert_events (
    event_id     uuid        PRIMARY KEY,
    alert_id     uuid        NOT NULL,
    at           timestamptz NOT NULL,
    noted_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    stream_epoch bigint      NOT NULL,
    stream_seq   bigint      NOT NULL,
    org          text COLLATE "C" NOT NULL,
    transition   text COLLATE "C" NOT NULL,
    state        text COLLATE "C" NOT NULL,
    kind         text COLLATE "C" NOT NULL,
    severity     text COLLATE "C" NOT NULL,
    reason       text COLLATE "C" NOT NULL,
    summary      text        NOT NULL,
    evidence     jsonb       NOT NULL
);
CREATE INDEX alert_events_alert ON alert_events (alert_id, stream_epoch, stream_seq);
CREATE INDEX alert_events_recent ON alert_events (org, at DESC, event_id);
COMMENT ON TABLE alert_events IS 'Transitions of alerts, append only. event_id is made of (org, fingerprint, stream epoch, sequence, transition): folding the stream again adds nothing.';
COMMENT ON COLUMN alert_events.at IS 'stream time of the deciding event; noted_at is when this row was written';
COMMENT ON COLUMN alert_events.evidence IS 'the results that decided, oldest first, five at most';

-- One row per stream: how far it is folded, and who may fold it. Whoever commits says WHERE epoch = mine AND seq = old.
CREATE TABLE alerter_state (
    stream           text COLLATE "C" PRIMARY KEY,
    stream_created   bigint      NOT NULL DEFAULT 0,
    seq              bigint      NOT NULL DEFAULT 0 CHECK (seq >= 0),
    event_at         timestamptz,
    epoch            bigint      NOT NULL DEFAULT 0,
    lease_owner      text        NOT NULL DEFAULT '',
    lease_until      timestamptz NOT NULL DEFAULT '-infinity',
    snapshot_created bigint      NOT NULL DEFAULT 0,
    snapshot_seq     bigint      NOT NULL DEFAULT 0 CHECK (snapshot_seq >= 0)
) WITH (fillfactor = 50);
COMMENT ON COLUMN alerter_state.stream_created IS 'creation of the stream, Unix nanoseconds: sequences of another creation mean nothing';
COMMENT ON COLUMN alerter_state.seq IS 'the last event whose transitions are committed';
COMMENT ON COLUMN alerter_state.epoch IS 'grows with every takeover: a former holder can commit nothing';
COMMENT ON COLUMN alerter_state.snapshot_seq IS 'the last event in alerter_snapshots, at most seq; in the stream of snapshot_created';

-- What the fold remembers, in the form of its own that services/alerter/fold defines.
CREATE TABLE alerter_snapshots (
    stream text COLLATE "C" NOT NULL,
    chunk  integer NOT NULL,
    data   bytea   NOT NULL,
    PRIMARY KEY (stream, chunk)
) WITH (fillfactor = 50);
-- Most chunks change every ten seconds: compressing them costs more than writing them.
ALTER TABLE alerter_snapshots ALTER COLUMN data SET STORAGE EXTERNAL;

-- Transitions still to be published, in order of id.
CREATE TABLE alert_outbox (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id uuid  NOT NULL,
    event    bytea NOT NULL
);
COMMENT ON COLUMN alert_outbox.event IS 'picket.v1.AlertEvent, binary';
