-- What people read most is found by an index.

-- +goose Up
-- Servers by how they are, in the order in which they are listed. The writer's updates of the times stay on their page: a
-- status changes rarely.
CREATE INDEX managed_servers_status ON managed_servers (org, health_status, name) WHERE removed_at IS NULL;
-- Alerts that are not over, the newest first: they are few, whatever the history holds.
CREATE INDEX system_alerts_current ON system_alerts (org, pending_at DESC, id) WHERE state <> 'closed';
