-- Organizations, and how this database keeps time series.

-- +goose Up
CREATE TABLE picket_meta (
    key   text PRIMARY KEY,
    value text NOT NULL
);
COMMENT ON TABLE picket_meta IS 'Facts about this database that are decided once.';

-- The mode is decided here and nowhere else. The extension counts only when its loader is preloaded (it defines the
-- setting asked for): creating it otherwise ends the session. `picket.mode` may be set to `plain` for a database that
-- shall do without.
-- +goose StatementBegin
DO $$
DECLARE
    mode text := 'plain';
BEGIN
    IF coalesce(current_setting('picket.mode', true), '') = 'plain' THEN
        mode := 'plain';
    ELSIF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        mode := 'timescale';
    ELSIF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
          AND current_setting('timescaledb.disable_load', true) IS NOT NULL THEN
        BEGIN
            CREATE EXTENSION timescaledb;
            mode := 'timescale';
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE NOTICE 'timescaledb is available but may not be created by %: plain mode', current_user;
        END;
    END IF;
    INSERT INTO picket_meta (key, value) VALUES ('mode', mode);
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION picket_mode() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT value FROM picket_meta WHERE key = 'mode'
$$;
-- +goose StatementEnd

CREATE TABLE organizations (
    slug       text COLLATE "C" PRIMARY KEY
               CHECK (slug ~ '^[a-z0-9][a-z0-9_-]*$' AND length(slug) <= 63
                      AND slug NOT IN ('_', 'work', 'worker', 'dead', 'clock')),
    name       text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO organizations (slug, name) VALUES ('default', 'Default');

-- The words of picket.v1.Status, whose numbers the tables keep.
-- +goose StatementBegin
CREATE FUNCTION picket_status_word(status smallint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE status WHEN 1 THEN 'healthy' WHEN 2 THEN 'degraded' WHEN 3 THEN 'critical'
                       WHEN 4 THEN 'unreachable' ELSE 'unknown' END
$$;
-- +goose StatementEnd
