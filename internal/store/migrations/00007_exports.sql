-- Exports: what people asked for, and who is making it.

-- +goose Up
CREATE TABLE export_jobs (
    id                uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at        timestamptz,
    completed_at      timestamptz,
    expires_at        timestamptz,
    lease_until       timestamptz,
    queued_at         timestamptz,
    swept_at          timestamptz,
    callback_next_at  timestamptz,
    file_size_bytes   bigint,
    row_count         bigint,
    progress_rows     bigint      NOT NULL DEFAULT 0,
    work              bigint      NOT NULL DEFAULT 1,
    attempt           integer     NOT NULL DEFAULT 0,
    tries             integer     NOT NULL DEFAULT 0,
    callback_attempts integer     NOT NULL DEFAULT 0,
    org               text COLLATE "C" NOT NULL REFERENCES organizations (slug),
    export_type       text COLLATE "C" NOT NULL
                      CHECK (export_type IN ('servers', 'health_checks', 'metrics', 'system_metrics', 'alerts', 'audit')),
    format            text COLLATE "C" NOT NULL DEFAULT 'csv' CHECK (format IN ('csv', 'ndjson', 'json', 'parquet')),
    compression       text COLLATE "C" NOT NULL DEFAULT 'none' CHECK (compression IN ('none', 'gzip', 'zstd')),
    status            text COLLATE "C" NOT NULL DEFAULT 'PENDING'
                      CHECK (status IN ('PENDING', 'PROCESSING', 'COMPLETED', 'FAILED', 'CANCELED', 'EXPIRED')),
    callback_state    text COLLATE "C" NOT NULL DEFAULT 'none' CHECK (callback_state IN ('none', 'pending', 'delivered', 'failed')),
    lease_owner       text        NOT NULL DEFAULT '',
    file_path         text        NOT NULL,
    sha256            text        NOT NULL DEFAULT '',
    error             text        NOT NULL DEFAULT '',
    callback_url      text        NOT NULL DEFAULT '',
    callback_error    text        NOT NULL DEFAULT '',
    created_by        text        NOT NULL DEFAULT '',
    filters           jsonb       NOT NULL DEFAULT '{}',
    CHECK (status <> 'COMPLETED' OR (expires_at IS NOT NULL AND completed_at IS NOT NULL AND sha256 <> '' AND row_count IS NOT NULL AND file_size_bytes IS NOT NULL))
) WITH (fillfactor = 70); -- leases and progress move
CREATE INDEX export_jobs_recent ON export_jobs (org, created_at DESC, id DESC);
-- What the sweep and the callbacks look for is always little.
CREATE INDEX export_jobs_unfinished ON export_jobs (created_at) WHERE status IN ('PENDING', 'PROCESSING');
CREATE INDEX export_jobs_unswept ON export_jobs (completed_at) WHERE swept_at IS NULL AND status IN ('COMPLETED', 'FAILED', 'CANCELED', 'EXPIRED');
CREATE INDEX export_jobs_expiry ON export_jobs (expires_at) WHERE status = 'COMPLETED';
CREATE INDEX export_jobs_callbacks ON export_jobs (callback_next_at) WHERE callback_state = 'pending';
COMMENT ON TABLE export_jobs IS 'Exports and their state: PENDING, PROCESSING, then COMPLETED (until EXPIRED), FAILED or CANCELED.';
COMMENT ON COLUMN export_jobs.attempt IS 'grows with every claim; only the newest attempt may finish the object or the row';
COMMENT ON COLUMN export_jobs.tries IS 'attempts since the export was asked for or retried that did not end of their own accord; bounded';
COMMENT ON COLUMN export_jobs.lease_until IS 'by the database''s clock; a PROCESSING row behind it belongs to nobody';
COMMENT ON COLUMN export_jobs.work IS 'grows with every work item that this export needs';
COMMENT ON COLUMN export_jobs.queued_at IS 'when the newest work item was safe in the stream';
COMMENT ON COLUMN export_jobs.file_path IS 'key of the object: {id}.{format}, with .gz or .zst';
COMMENT ON COLUMN export_jobs.sha256 IS 'hex, of the object as it was written; compared with what the store gives back before the row is COMPLETED';
COMMENT ON COLUMN export_jobs.expires_at IS 'null until it is completed: making a long one takes nothing from the time to download it';
COMMENT ON COLUMN export_jobs.swept_at IS 'when it was made sure that nothing unfinished of it, and no object but that of a COMPLETED one, is left in the store';

-- What is to be published, in order of id: what happened (phase), or that there is work to do (phase work).
CREATE TABLE export_outbox (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    export_id uuid        NOT NULL,
    rows      bigint      NOT NULL,
    bytes     bigint      NOT NULL,
    work      bigint      NOT NULL,
    attempt   integer     NOT NULL,
    phase     text        NOT NULL,
    org       text        NOT NULL,
    type      text        NOT NULL,
    format    text        NOT NULL,
    sha256    text        NOT NULL,
    key       text        NOT NULL,
    error     text        NOT NULL
);

-- Whoever changes a row cannot forget to say so.
-- +goose StatementBegin
CREATE FUNCTION picket_export_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    phases text[] := '{}';
BEGIN
    IF TG_OP = 'INSERT' THEN
        phases := '{requested,work}';
    ELSE
        IF NEW.work > OLD.work THEN
            IF OLD.status IN ('FAILED', 'CANCELED', 'EXPIRED') THEN
                phases := phases || 'requested'::text;
            END IF;
            phases := phases || 'work'::text;
        END IF;
        IF NEW.status = 'PROCESSING' AND NEW.attempt > OLD.attempt THEN
            phases := phases || 'started'::text;
        ELSIF NEW.status <> OLD.status AND NEW.status NOT IN ('PENDING', 'PROCESSING') THEN
            phases := phases || lower(NEW.status);
        END IF;
    END IF;
    IF cardinality(phases) > 0 THEN
        INSERT INTO export_outbox (export_id, rows, bytes, work, attempt, phase, org, type, format, sha256, key, error)
        SELECT NEW.id, coalesce(NEW.row_count, NEW.progress_rows), coalesce(NEW.file_size_bytes, 0), NEW.work, NEW.attempt, phase,
               NEW.org, NEW.export_type, NEW.format, NEW.sha256, CASE NEW.status WHEN 'COMPLETED' THEN NEW.file_path ELSE '' END,
               NEW.error
        FROM unnest(phases) WITH ORDINALITY AS p (phase, n) ORDER BY n;
        NOTIFY picket_exports;
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER export_changed AFTER INSERT OR UPDATE OF status, work, attempt ON export_jobs
    FOR EACH ROW EXECUTE FUNCTION picket_export_changed();
