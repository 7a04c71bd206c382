package system_test

import (
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// rawConn publishes what no client of Picket would.
func (w *hostileWorld) rawConn() *nats.Conn {
	w.t.Helper()
	raw, err := nats.Connect(w.d.natsURL(), nats.Name("hostile"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(raw.Close)
	return raw
}

const jsonType, protobufType = wire.ContentTypeJSON, wire.ContentTypeProtobuf

// payload is something that no message is, whatever the subject.
type payload struct{ kind, data string }

func payloads() map[string]payload {
	return map[string]payload{
		"garbage":       {jsonType, "\xff\x00\xfe\x1b]0;owned\a"},
		"empty":         {jsonType, ""},
		"huge":          {jsonType, strings.Repeat("x", 1000<<10)},
		"deep":          {jsonType, strings.Repeat(`{"a":`, 100_000)},
		"deep list":     {jsonType, strings.Repeat(`[`, 500_000)},
		"cut":           {jsonType, `{"org":"default","server":`},
		"twice":         {jsonType, `{"org":"default","org":"other"}`},
		"no UTF-8":      {jsonType, "{\"org\":\"\xff\xfe\"}"},
		"escapes":       {jsonType, "\x1b[2J\x1b]0;owned\a\nlevel=ERROR msg=forged"},
		"wrong type":    {"application/xml", `<org>default</org>`},
		"no protobuf":   {protobufType, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"},
		"long protobuf": {protobufType, "\x0a\xff\xff\xff\xff\x0f"},
	}
}

// result is one that keeps the contract but for what change does to it.
func (w *hostileWorld) result(change func(*picketv1.ProbeResult)) (subject string, data []byte) {
	w.t.Helper()
	at := timestamppb.New(time.Now().Truncate(time.Millisecond))
	r := &picketv1.ProbeResult{
		Status: picketv1.Status_STATUS_HEALTHY, Org: "default", Location: "local", Server: w.fleet.Name(0), Check: "health", Kind: "http",
		CheckId: query[string](w.t, w.d, `SELECT c.id::text FROM checks c JOIN managed_servers s ON s.id = c.server_id
			WHERE s.name = $1 AND c.name = 'health'`, w.fleet.Name(0))[0],
		ScheduledAt: at, StartedAt: at, OnDemand: true, Revision: 1,
	}
	subject = bus.ProbeSubject(r.GetOrg(), r.GetStatus(), r.GetLocation(), r.GetServer(), r.GetCheck())
	change(r)
	data, err := wire.AppendJSON(nil, r)
	if err != nil {
		w.t.Fatal(err)
	}
	return subject, data
}

// lies read, and say what the contract forbids.
func lies() map[string]func(*picketv1.ProbeResult) {
	at := func(s string) *timestamppb.Timestamp {
		when, err := time.Parse(time.RFC3339, s)
		if err != nil {
			panic(err)
		}
		return timestamppb.New(when)
	}
	return map[string]func(*picketv1.ProbeResult){
		"another's org":        func(r *picketv1.ProbeResult) { r.Org = "other" },
		"another's server":     func(r *picketv1.ProbeResult) { r.Server = "other" },
		"of 1970":              func(r *picketv1.ProbeResult) { r.ScheduledAt = at("1970-01-01T00:00:00Z") },
		"of 9999":              func(r *picketv1.ProbeResult) { r.ScheduledAt = at("9999-12-31T23:59:59Z") },
		"of no time":           func(r *picketv1.ProbeResult) { r.ScheduledAt = nil },
		"of no check":          func(r *picketv1.ProbeResult) { r.CheckId = "'; DROP TABLE checks; --" },
		"of another status":    func(r *picketv1.ProbeResult) { r.Status = picketv1.Status_STATUS_CRITICAL },
		"of negative latency":  func(r *picketv1.ProbeResult) { r.LatencyUs = -1 },
		"of a long instance":   func(r *picketv1.ProbeResult) { r.Instance = strings.Repeat("x", 100_000) },
		"of endless missing":   func(r *picketv1.ProbeResult) { r.MissedUntil = at("9999-12-31T23:59:59Z") },
		"of too many counters": func(r *picketv1.ProbeResult) { r.Counters = manyCounters() },
	}
}

func manyCounters() map[string]float64 {
	many := map[string]float64{}
	for i := range 2000 {
		many[fmt.Sprint("c", i)] = 1
	}
	return many
}

// hostileMessages publishes what nobody should on every subject of the wire. What a durable reads is one dead letter each,
// everything else is ignored, and the good servers' results go on.
func (w *hostileWorld) hostileMessages() {
	t := w.t
	t.Helper()
	raw := w.rawConn()
	server := w.fleet.Name(0)
	want := map[string]int{} // consumer and subject: dead letters
	send := func(subject, id string, p payload, consumer string) {
		t.Helper()
		msg := &nats.Msg{Subject: subject, Data: []byte(p.data), Header: nats.Header{"Content-Type": {p.kind}}}
		if id != "" {
			msg.Header.Set("Nats-Msg-Id", id)
		}
		if _, err := raw.RequestMsg(msg, patience); err != nil {
			t.Fatalf("publish on %s: %v", subject, err)
		}
		if consumer != "" {
			want[consumer+" "+subject]++
		}
	}
	id := uuid.NewString()
	for _, p := range payloads() {
		// Read by a durable.
		send(bus.ProbeSubject("default", picketv1.Status_STATUS_HEALTHY, "local", server, "health"), "", p, "writer")
		send(bus.MetricSubject("default", "local", server), "", p, "writer-metrics")
		send(bus.MetricSubject("default", "local", ""), "", p, "writer-metrics")
		send(bus.WorkSubject(bus.WorkExport), "", p, "exporter")
		// Read by nobody who keeps a message that is none.
		for _, subject := range []string{
			bus.CatalogSubject("default", "removed", server), bus.CatalogSubject("default", "added", "forged"),
			bus.CommandSubject("default", "close", id), bus.ClockSubject, bus.AlertSubject("default", "opened", "critical", server),
			bus.ExportSubject("default", "completed", id), bus.DeadSubject("default", "FORGED", "writer"),
			bus.DeadSubject("default", bus.StreamEvents, "writer") + ".replayed",
		} {
			send(subject, "", p, "")
		}
	}
	for _, lie := range lies() {
		subject, data := w.result(lie)
		send(subject, "", payload{jsonType, string(data)}, "writer")
	}
	for _, subject := range []string{
		"picket.default.probe.sleepy.local.a.health", "picket.default.probe.healthy", "picket.DEFAULT.probe.healthy.local.a.health",
		"picket.default.probe.healthy.local.a.b.c.d", "picket.work.probe.healthy.local.a.health",
		"picket.default.probe.healthy.local." + strings.Repeat("x", 3000) + ".health",
	} {
		send(subject, "", payload{jsonType, "{}"}, "writer")
	}
	send("picket.default.metric.a.b.c.d", "", payload{jsonType, "{}"}, "writer-metrics")
	// Sent twice with one identity, it is there once.
	subject := bus.ProbeSubject("default", picketv1.Status_STATUS_HEALTHY, "local", server, "twice")
	send(subject, "the-same", payload{jsonType, "{"}, "writer")
	send(subject, "the-same", payload{jsonType, "{"}, "")
	// Asked, not kept.
	for name, p := range payloads() {
		for _, service := range []string{"prober", "collector"} {
			msg := &nats.Msg{Subject: bus.RequestSubject(service, "local"), Data: []byte(p.data), Header: nats.Header{"Content-Type": {p.kind}, "Picket-Timeout-Ms": {"-1e99"}}}
			answer, err := raw.RequestMsg(msg, patience)
			if err != nil {
				t.Errorf("%s is asked %s: %v", service, name, err)
				continue
			}
			reply := &picketv1.RunReply{}
			if err := wire.Decode(answer.Header.Get("Content-Type"), answer.Data, reply); err != nil || reply.GetRefused() == "" {
				t.Errorf("%s is asked %s and says %v (%v)", service, name, reply, err)
			}
		}
	}
	w.awaitLetters(want)
	w.stillLooked("among hostile messages")
}

// awaitLetters wants exactly these dead letters, by consumer and subject, besides those that were forged.
func (w *hostileWorld) awaitLetters(want map[string]int) {
	w.t.Helper()
	conn := connect(w.t, w.d)
	var got map[string]int
	total := 0
	for _, n := range want {
		total += n
	}
	eventually(w.t, "the hostile messages are dead letters", func() error {
		got = map[string]int{}
		found := 0
		err := conn.Letters(testContext(w.t), bus.LetterFilter{}, func(l *bus.Letter) error {
			if l.Fault == nil {
				subject := l.Content.GetSubject()
				got[l.Content.GetConsumer()+" "+subject]++
				found++
			}
			return nil
		})
		if err == nil && found < total {
			err = fmt.Errorf("%d of %d", found, total)
		}
		return err
	})
	cut := map[string]int{} // long subjects are cut in a letter
	for key, n := range want {
		consumer, subject, _ := strings.Cut(key, " ")
		cut[consumer+" "+subject[:min(len(subject), 1024)]] += n
	}
	if !maps.Equal(cut, got) {
		for _, key := range slices.Sorted(maps.Keys(got)) {
			if got[key] != cut[key] {
				w.t.Errorf("%d dead letters of %.200s, expected %d", got[key], key, cut[key])
			}
		}
		for _, key := range slices.Sorted(maps.Keys(cut)) {
			if got[key] == 0 {
				w.t.Errorf("no dead letter of %.200s", key)
			}
		}
	}
}

// stillLooked wants new results of all good servers.
func (w *hostileWorld) stillLooked(when string) {
	w.t.Helper()
	now := query[time.Time](w.t, w.d, "SELECT now()")[0]
	eventually(w.t, "good servers are looked at "+when, func() error {
		seen := query[int64](w.t, w.d, `SELECT count(DISTINCT s.name) FROM server_health_checks h
			JOIN checks c ON c.id = h.check_id JOIN managed_servers s ON s.id = c.server_id
			WHERE s.name < $1 AND s.name LIKE 'sim-%' AND c.name = 'health' AND h.status = 1 AND h.scheduled_at > $2`,
			w.fleet.Name(goodServers), now)[0]
		if seen < goodServers {
			return fmt.Errorf("%d of %d", seen, goodServers)
		}
		return nil
	})
}

// hostileHeartbeats forges heartbeats of a great many names, goodbyes of those that live, and what is none. While that goes
// on, checks may be kept from who has them: whoever may send heartbeats is a prober. Memory stays bounded, and seconds
// after it everything is as it was.
func (w *hostileWorld) hostileHeartbeats() {
	t := w.t
	t.Helper()
	raw := w.rawConn()
	before := map[string]map[string]float64{}
	for name, p := range processes(w.d) {
		before[name] = goFigures(t, p)
	}
	beat := func(service, name string, running bool) {
		now := timestamppb.Now()
		data, err := wire.AppendJSON(nil, &picketv1.WorkerStatus{
			Service: service, Instance: name, Location: "local", Running: running, Ready: true, SentAt: now, StartedAt: now, SettledUntil: now,
		})
		if err == nil {
			err = raw.PublishMsg(&nats.Msg{Subject: bus.WorkerSubject(service, "local", name), Data: data, Header: nats.Header{"Content-Type": {jsonType}}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, service := range []string{"prober", "collector"} {
		for _, p := range payloads() {
			msg := &nats.Msg{Subject: bus.WorkerSubject(service, "local", "forged"), Data: []byte(p.data), Header: nats.Header{"Content-Type": {p.kind}}}
			if err := raw.PublishMsg(msg); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{service, "picket up", ""} {
			beat(service, name, false)
		}
		const names = 50_000
		for i := range names {
			beat(service, fmt.Sprintf("forged-%d", i), true)
			if i%1000 == 0 {
				if err := raw.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := raw.Flush(); err != nil {
		t.Fatal(err)
	}
	for name, p := range processes(w.d) {
		after := goFigures(t, p)
		grown := after["go_memstats_heap_inuse_bytes"] - before[name]["go_memstats_heap_inuse_bytes"]
		t.Logf("forged heartbeats: the heap of %s grew by %.0f MiB", name, grown/(1<<20))
		if grown > 192<<20 {
			t.Errorf("forged heartbeats: the heap of %s grew by %.0f MiB", name, grown/(1<<20))
		}
	}
	w.stillLooked("after forged heartbeats")
}

// replay mends what the database has against a row and puts its dead letter back with the command that people type: the
// row is there, once.
func (w *hostileWorld) replay() {
	t := w.t
	t.Helper()
	w.exec(`ALTER TABLE server_health_checks ADD CONSTRAINT mendable CHECK (http_status <> 599) NOT VALID`)
	subject, data := w.result(func(r *picketv1.ProbeResult) { r.HttpStatus = 599 })
	raw := w.rawConn()
	if _, err := raw.RequestMsg(&nats.Msg{
		Subject: subject, Data: data, Header: nats.Header{"Content-Type": {jsonType}, "Nats-Msg-Id": {"mendable"}},
	}, patience); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, w.d)
	var letter *bus.Letter
	eventually(t, "the refused row is a dead letter", func() error {
		letters, _, err := conn.NewestLetters(testContext(t), bus.LetterFilter{Reason: bus.ReasonRefused}, 1)
		if err == nil && len(letters) == 0 {
			err = errors.New("none")
		}
		if err == nil {
			letter = letters[0]
		}
		return err
	})
	number := fmt.Sprint(letter.Sequence)
	if said := w.dead("show", number); !strings.Contains(said, "mendable") || !strings.Contains(said, `"http_status": 599`) {
		t.Errorf("picket dead show says:\n%s", said)
	}
	w.exec(`ALTER TABLE server_health_checks DROP CONSTRAINT mendable`)
	if said := w.dead("replay", number, "--yes"); !strings.Contains(said, "replayed 1 dead letter") {
		t.Errorf("picket dead replay says:\n%s", said)
	}
	eventually(t, "the row is there", func() error {
		if n := query[int64](t, w.d, `SELECT count(*) FROM server_health_checks WHERE http_status = 599`)[0]; n != 1 {
			return fmt.Errorf("%d rows", n)
		}
		return nil
	})
	if said := w.dead("ls", "--state", "replayed"); strings.Count(said, "row_refused") != 1 {
		t.Errorf("picket dead ls says:\n%s", said)
	}
}

func (w *hostileWorld) exec(sql string) {
	w.t.Helper()
	query[int](w.t, w.d, sql)
}

// dead runs picket dead and returns all that it says.
func (w *hostileWorld) dead(args ...string) string {
	w.t.Helper()
	cmd := exec.CommandContext(testContext(w.t), filepath.Join(programs, "picket"), append([]string{"dead"}, args...)...)
	cmd.Env = environment("NATS_URL=" + w.d.natsURL())
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Errorf("picket dead %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
