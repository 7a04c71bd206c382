-- What is watched: servers, their checks, and when those are due.

-- +goose Up
CREATE TABLE managed_servers (
    id                   uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    revision             bigint      NOT NULL DEFAULT 1,
    last_seen_at         timestamptz,
    last_health_check_at timestamptz,
    changed_at           timestamptz NOT NULL DEFAULT now(),
    created_at           timestamptz NOT NULL DEFAULT now(),
    removed_at           timestamptz,
    org                  text COLLATE "C" NOT NULL REFERENCES organizations (slug),
    name                 text COLLATE "C" NOT NULL CHECK (name ~ '^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$' AND length(name) <= 63),
    managed_by           text COLLATE "C" NOT NULL CHECK (managed_by IN ('env', 'file', 'api', 'self')),
    lifecycle            text COLLATE "C" NOT NULL DEFAULT 'active' CHECK (lifecycle IN ('active', 'maintenance', 'inactive')),
    health_status        text COLLATE "C" NOT NULL DEFAULT 'unknown'
                         CHECK (health_status IN ('healthy', 'degraded', 'critical', 'unreachable', 'unknown')),
    change               text COLLATE "C" NOT NULL DEFAULT 'added'
                         CHECK (change IN ('added', 'changed', 'maintenance', 'removed')),
    display_name         text        NOT NULL DEFAULT '',
    region               text        NOT NULL DEFAULT '',
    environment          text        NOT NULL DEFAULT '',
    tags                 text[]      NOT NULL DEFAULT '{}',
    UNIQUE (org, name),
    CHECK ((removed_at IS NOT NULL) = (change = 'removed'))
) WITH (fillfactor = 70); -- the writer moves health_status and the times
CREATE INDEX managed_servers_tags ON managed_servers USING gin (tags);
COMMENT ON TABLE managed_servers IS 'Watched things. A removed one keeps its row, and gets its id back when the name returns.';
COMMENT ON COLUMN managed_servers.managed_by IS 'source that declares it: env, file, api, self; only that one changes or removes it';
COMMENT ON COLUMN managed_servers.revision IS 'grows with every change of the server or of one of its checks';
COMMENT ON COLUMN managed_servers.change IS 'how it came to this revision, as the event says it';
COMMENT ON COLUMN managed_servers.health_status IS 'worst of its enabled checks; kept by the writer, like both last_ times';

CREATE TABLE checks (
    id          uuid    PRIMARY KEY DEFAULT gen_random_uuid(),
    serial      bigint  GENERATED ALWAYS AS IDENTITY UNIQUE,
    server_id   uuid    NOT NULL REFERENCES managed_servers (id),
    revision    bigint  NOT NULL,
    interval_ms bigint  NOT NULL CHECK (interval_ms > 0),
    timeout_ms  bigint  NOT NULL CHECK (timeout_ms > 0 AND timeout_ms < interval_ms),
    removed_at  timestamptz,
    priority    integer NOT NULL DEFAULT 0,
    enabled     boolean NOT NULL DEFAULT true,
    name        text COLLATE "C" NOT NULL,
    kind        text COLLATE "C" NOT NULL,
    locations   text[]  NOT NULL,
    spec        jsonb   NOT NULL,
    alerts      jsonb,
    UNIQUE (server_id, name),
    CHECK (removed_at IS NULL OR NOT enabled)
);
COMMENT ON TABLE checks IS 'How servers are probed. Removed ones stay: results and schedules of the past are theirs.';
COMMENT ON COLUMN checks.serial IS 'the phase of the schedule is made from it';
COMMENT ON COLUMN checks.revision IS 'revision of the server when what its prober must know last changed';
COMMENT ON COLUMN checks.spec IS 'picket.v1.HTTPSpec or TCPSpec, by kind';
COMMENT ON COLUMN checks.alerts IS 'picket.v1.AlertRules; null: defaults for the source';

-- Due ticks, and so coverage, are computed from here.
CREATE TABLE check_schedules (
    check_id     uuid        NOT NULL REFERENCES checks (id),
    revision     bigint      NOT NULL,
    interval_ms  bigint      NOT NULL CHECK (interval_ms >= 0),
    effective_at timestamptz NOT NULL,
    locations    text[]      NOT NULL,
    PRIMARY KEY (check_id, revision)
);
COMMENT ON TABLE check_schedules IS 'When and where a check is due: each version from effective_at until the next; interval 0 is never.';

CREATE TABLE server_groups (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    created_at   timestamptz NOT NULL DEFAULT now(),
    org          text COLLATE "C" NOT NULL REFERENCES organizations (slug),
    name         text COLLATE "C" NOT NULL,
    description  text NOT NULL DEFAULT '',
    color        text NOT NULL DEFAULT '',
    UNIQUE (org, name)
);
CREATE TABLE server_group_members (
    server_id uuid NOT NULL REFERENCES managed_servers (id),
    group_id  uuid NOT NULL REFERENCES server_groups (id) ON DELETE CASCADE,
    PRIMARY KEY (server_id, group_id)
);
CREATE INDEX server_group_members_group ON server_group_members (group_id);

-- Which revision of each server the stream has got. Another life of the stream has got nothing, and neither has one
-- that threw it away since.
CREATE TABLE catalog_publications (
    server_id    uuid        PRIMARY KEY REFERENCES managed_servers (id) ON DELETE CASCADE,
    stream_epoch bigint      NOT NULL,
    after_seq    bigint      NOT NULL,
    revision     bigint      NOT NULL,
    published_at timestamptz NOT NULL
);
COMMENT ON COLUMN catalog_publications.after_seq IS 'last sequence of the stream before the event was sent';

-- Work that one replica does at a time. The database's clock decides.
CREATE TABLE leases (
    name       text COLLATE "C" PRIMARY KEY,
    owner      text        NOT NULL,
    epoch      bigint      NOT NULL,
    expires_at timestamptz NOT NULL
);
COMMENT ON COLUMN leases.epoch IS 'grows with every change of owner';

-- +goose StatementBegin
CREATE FUNCTION picket_catalog_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY picket_catalog;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
-- Not the columns that the writer keeps: they move all the time.
CREATE TRIGGER catalog_changed AFTER INSERT OR DELETE OR UPDATE OF revision, removed_at, org, name, managed_by, lifecycle,
    display_name, region, environment, tags ON managed_servers EXECUTE FUNCTION picket_catalog_changed();
CREATE TRIGGER catalog_changed AFTER INSERT OR UPDATE OR DELETE ON checks EXECUTE FUNCTION picket_catalog_changed();
CREATE TRIGGER catalog_changed AFTER INSERT OR UPDATE OR DELETE ON check_schedules EXECUTE FUNCTION picket_catalog_changed();
CREATE TRIGGER catalog_changed AFTER INSERT OR UPDATE OR DELETE ON server_group_members EXECUTE FUNCTION picket_catalog_changed();

