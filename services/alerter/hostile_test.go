package alerter

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/alerter/fold"
)

// TestDecodeHoldsPayloadsToTheirSubjects: who may publish under one organization's subjects says nothing about another's
// servers, and what the writer dead-letters decides about no alert.
func TestDecodeHoldsPayloadsToTheirSubjects(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	result := func(change func(*picketv1.ProbeResult)) proto.Message {
		r := &picketv1.ProbeResult{
			Status: picketv1.Status_STATUS_CRITICAL, Server: "srv1", Check: "health", Location: "local", Org: "default",
			CheckId: checkID(1), ScheduledAt: timestamppb.New(noon),
		}
		change(r)
		return r
	}
	server := func(change func(*picketv1.Server)) proto.Message {
		s := &picketv1.Server{Org: "default", Name: "srv1"}
		change(s)
		return &picketv1.CatalogChange{Change: "added", Server: s}
	}
	const probe, catalog = "picket.default.probe.critical.local.srv1.health", "picket.default.catalog.added.srv1"
	for name, test := range map[string]struct {
		subject string
		payload proto.Message
		want    fold.Skip
	}{
		"result":                   {probe, result(func(*picketv1.ProbeResult) {}), ""},
		"result of another org":    {probe, result(func(r *picketv1.ProbeResult) { r.Org = "other" }), fold.SkipContract},
		"result of another server": {probe, result(func(r *picketv1.ProbeResult) { r.Server = "srv2" }), fold.SkipContract},
		"result of another status": {probe, result(func(r *picketv1.ProbeResult) { r.Status = picketv1.Status_STATUS_HEALTHY }), fold.SkipContract},
		"result too large":         {probe, result(func(r *picketv1.ProbeResult) { r.Message = strings.Repeat("x", 5000) }), fold.SkipContract},
		"result of no time":        {probe, result(func(r *picketv1.ProbeResult) { r.ScheduledAt.Seconds = 1 << 60 }), fold.SkipContract},
		"change":                   {catalog, server(func(*picketv1.Server) {}), ""},
		"change of another org":    {catalog, server(func(s *picketv1.Server) { s.Org = "other" }), fold.SkipContract},
		"change of another server": {catalog, server(func(s *picketv1.Server) { s.Name = "srv2" }), fold.SkipContract},
		"another change":           {"picket.default.catalog.removed.srv1", server(func(*picketv1.Server) {}), fold.SkipContract},
		"change without a server":  {catalog, &picketv1.CatalogChange{Change: "added"}, fold.SkipContract},
		"nobody's subject":         {"picket.default.probe.critical", result(func(*picketv1.ProbeResult) {}), skipUnreadable},
	} {
		data, err := wire.Protobuf.Append(nil, test.payload)
		if err != nil {
			t.Fatal(err)
		}
		payload, skip := decode(&bus.Msg{Subject: test.subject, ContentType: wire.ContentTypeProtobuf, Data: data, Time: noon})
		if skip != test.want || (payload == nil) != (test.want != "") {
			t.Errorf("%s: %v, skip %q, want %q", name, payload, skip, test.want)
		}
	}
}

// TestReadinessFollowsTheFold: an alerter that cannot commit what it folds says so, and says when it can again.
func TestReadinessFollowsTheFold(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.alerter("a", "")
	f.start(s)
	f.add(1)
	f.probe(1, "H")
	wait(t, "the alerter to be ready", func() bool { return s.kit.Health.Ready() == nil })
	if _, err := f.db.Exec(t.Context(), `ALTER TABLE system_alerts ADD CONSTRAINT none CHECK (false)`); err != nil {
		t.Fatal(err)
	}
	f.probe(1, "CC")
	wait(t, "the alerter to say that it cannot fold", func() bool {
		err := s.kit.Health.Ready()
		return err != nil && strings.Contains(err.Error(), "folding")
	})
	if _, err := f.db.Exec(t.Context(), `ALTER TABLE system_alerts DROP CONSTRAINT none`); err != nil {
		t.Fatal(err)
	}
	f.waitHistory(1, 2)
	wait(t, "the alerter to be ready again", func() bool { return s.kit.Health.Ready() == nil })
}
