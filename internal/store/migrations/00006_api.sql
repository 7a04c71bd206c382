-- What people change: tokens, the record of changes, servers that are registered, groups that select.

-- +goose Up
ALTER TABLE organizations DROP CONSTRAINT organizations_slug_check;
ALTER TABLE organizations ADD CONSTRAINT organizations_slug_check CHECK (
    slug ~ '^[a-z0-9][a-z0-9_-]*$' AND length(slug) <= 63
    AND slug NOT IN ('_', 'work', 'worker', 'request', 'dead', 'clock'));

CREATE TABLE api_tokens (
    id           text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[a-z0-9]{8,32}$'),
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    org          text COLLATE "C" NOT NULL REFERENCES organizations (slug),
    role         text COLLATE "C" NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    rotated_from text COLLATE "C" REFERENCES api_tokens (id) ON DELETE SET NULL,
    created_by   text COLLATE "C" NOT NULL DEFAULT '',
    name         text  NOT NULL DEFAULT '',
    hash         bytea NOT NULL CHECK (length(hash) = 32)
);
CREATE INDEX api_tokens_org ON api_tokens (org, created_at, id);
COMMENT ON TABLE api_tokens IS 'Who may ask the API: bearer tokens pk_<id>_<secret>. Revoked and expired ones stay for the record.';
COMMENT ON COLUMN api_tokens.hash IS 'SHA-256 of the secret, which has at least 128 random bits, so that a slow hash would add nothing';
COMMENT ON COLUMN api_tokens.last_used_at IS 'written once a minute at most';
COMMENT ON COLUMN api_tokens.rotated_from IS 'the token that this one takes the place of';
COMMENT ON COLUMN api_tokens.created_by IS 'id of the token that made it; empty: the program itself';

CREATE TABLE audit_log (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    org         text COLLATE "C" NOT NULL,
    actor       text COLLATE "C" NOT NULL,
    actor_name  text        NOT NULL,
    role        text COLLATE "C" NOT NULL,
    action      text COLLATE "C" NOT NULL,
    target_kind text COLLATE "C" NOT NULL,
    target      text COLLATE "C" NOT NULL,
    request_id  text COLLATE "C" NOT NULL,
    remote      text COLLATE "C" NOT NULL,
    before      jsonb,
    after       jsonb
);
CREATE INDEX audit_log_org ON audit_log (org, id);
CREATE INDEX audit_log_target ON audit_log (org, target_kind, target, id);
CREATE INDEX audit_log_at ON audit_log (at);
COMMENT ON TABLE audit_log IS 'Every change that somebody asked for, written in the transaction that made it. Never a secret.';
COMMENT ON COLUMN audit_log.actor IS 'id of the token; of the program itself: the word for what it did it by, such as command-line';
COMMENT ON COLUMN audit_log.action IS 'what was done, such as server.create';

CREATE TABLE idempotency_keys (
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    org         text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    resource    text COLLATE "C" NOT NULL,
    fingerprint bytea       NOT NULL,
    PRIMARY KEY (org, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (org, created_at);
COMMENT ON TABLE idempotency_keys IS 'What a request with an Idempotency-Key has made, so that sending it again makes nothing. Pruned by the API.';
COMMENT ON COLUMN idempotency_keys.fingerprint IS 'SHA-256 of what was asked for: the same key with something else is a mistake';

ALTER TABLE managed_servers
    ADD COLUMN description              text  NOT NULL DEFAULT '',
    ADD COLUMN hostname                 text  NOT NULL DEFAULT '',
    ADD COLUMN api_url                  text  NOT NULL DEFAULT '',
    ADD COLUMN version                  text  NOT NULL DEFAULT '',
    ADD COLUMN metadata                 jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    ADD COLUMN api_token_hash           text COLLATE "C",
    ADD COLUMN api_token_sealed         text COLLATE "C",
    ADD COLUMN api_token_previous       text COLLATE "C",
    ADD COLUMN api_token_previous_until timestamptz,
    DROP CONSTRAINT managed_servers_change_check,
    ADD CONSTRAINT managed_servers_change_check
        CHECK (change IN ('added', 'changed', 'maintenance', 'token_rotated', 'removed')),
    ADD CONSTRAINT managed_servers_token_check CHECK (
        (api_token_sealed IS NULL) = (api_token_hash IS NULL)
        AND (api_token_previous IS NULL) = (api_token_previous_until IS NULL)
        AND (api_token_previous IS NULL OR api_token_sealed IS NOT NULL));
CREATE INDEX managed_servers_token ON managed_servers (org, api_token_hash) WHERE api_token_hash IS NOT NULL;
COMMENT ON COLUMN managed_servers.version IS 'what runs there, as whoever registered it says';
COMMENT ON COLUMN managed_servers.api_url IS 'base of the addresses of its checks health and metrics, when it was registered with one';
COMMENT ON COLUMN managed_servers.api_token_hash IS 'SHA-256, hexadecimal, of the token that the server wants presented: to look it up by';
COMMENT ON COLUMN managed_servers.api_token_sealed IS 'the token, v1:<key id>:<nonce>:<ciphertext>, sealed for (org, name, field api_token)';
COMMENT ON COLUMN managed_servers.api_token_previous IS 'sealed: the token before, presented when the new one is refused, until api_token_previous_until';

-- +goose StatementBegin
CREATE FUNCTION picket_text_array(list jsonb) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE jsonb_typeof(list) WHEN 'array' THEN ARRAY(SELECT jsonb_array_elements_text(list)) END
$$;
-- +goose StatementEnd

-- The lists of a selector are columns besides, so that they are unpacked once and not for every server.
ALTER TABLE server_groups
    ADD COLUMN revision     bigint      NOT NULL DEFAULT 1,
    ADD COLUMN updated_at   timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN managed_by   text COLLATE "C" NOT NULL DEFAULT 'file' CHECK (managed_by IN ('env', 'file', 'api', 'self')),
    ADD COLUMN selector     jsonb CHECK (jsonb_typeof(selector) = 'object'),
    ADD COLUMN tags_all     text[] GENERATED ALWAYS AS (picket_text_array(selector -> 'tags_all')) STORED,
    ADD COLUMN tags_any     text[] GENERATED ALWAYS AS (picket_text_array(selector -> 'tags_any')) STORED,
    ADD COLUMN regions      text[] GENERATED ALWAYS AS (picket_text_array(selector -> 'regions')) STORED,
    ADD COLUMN environments text[] GENERATED ALWAYS AS (picket_text_array(selector -> 'environments')) STORED,
    ADD COLUMN lifecycles   text[] GENERATED ALWAYS AS (picket_text_array(selector -> 'status')) STORED,
    ADD COLUMN statuses     text[] GENERATED ALWAYS AS (picket_text_array(selector -> 'health_status')) STORED;
ALTER TABLE server_groups ALTER COLUMN managed_by SET DEFAULT 'api';
COMMENT ON COLUMN server_groups.managed_by IS 'source that made the group; servers declared by others keep it alive';
COMMENT ON COLUMN server_groups.selector IS 'dynamic members: servers that meet all of tags_all, tags_any, regions, environments, status (lifecycle), health_status; null: none';

ALTER TABLE server_group_members
    ADD COLUMN managed_by text COLLATE "C" NOT NULL DEFAULT 'api' CHECK (managed_by IN ('env', 'file', 'api', 'self'));
UPDATE server_group_members m SET managed_by = s.managed_by FROM managed_servers s WHERE s.id = m.server_id;
COMMENT ON COLUMN server_group_members.managed_by IS 'source that put the server into the group; the source of a server takes out only what it put in';

CREATE VIEW v_group_members AS
SELECT s.org, m.group_id, m.server_id
FROM server_group_members m JOIN managed_servers s ON s.id = m.server_id
WHERE s.removed_at IS NULL
UNION
SELECT s.org, g.id, s.id
FROM server_groups g JOIN managed_servers s ON s.org = g.org
WHERE g.selector IS NOT NULL AND s.removed_at IS NULL
  AND (g.tags_all IS NULL OR s.tags @> g.tags_all)
  AND (g.tags_any IS NULL OR s.tags && g.tags_any)
  AND (g.regions IS NULL OR s.region = ANY (g.regions))
  AND (g.environments IS NULL OR s.environment = ANY (g.environments))
  AND (g.lifecycles IS NULL OR s.lifecycle = ANY (g.lifecycles))
  AND (g.statuses IS NULL OR s.health_status = ANY (g.statuses));
COMMENT ON VIEW v_group_members IS 'Members of groups, static and dynamic, each once; living servers only.';
