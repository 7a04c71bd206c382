package store

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestConditions: every value is the argument that its place names, and what is empty is no condition.
func TestConditions(t *testing.T) {
	t.Parallel()
	c := where(`org = $?`, "acme")
	c.equal("region", "")
	c.equal("kind", "http")
	c.and(`state <> 'closed'`)
	c.and(`(name ILIKE $? OR host ILIKE $?)`, "%a%", "%a%")
	c.and(`at <= $? AND (at < $? OR id > $?)`, 5, 5, "x")
	c.then(`ORDER BY at LIMIT $? OFFSET $?`, 10, 20)
	want := ` WHERE org = $1 AND kind = $2 AND state <> 'closed' AND (name ILIKE $3 OR host ILIKE $4)` +
		` AND at <= $5 AND (at < $6 OR id > $7) ORDER BY at LIMIT $8 OFFSET $9`
	if diff := cmp.Diff(want, c.sql); diff != "" {
		t.Errorf("clause (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]any{"acme", "http", "%a%", "%a%", 5, 5, "x", 10, 20}, c.args); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
}
