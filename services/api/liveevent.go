package api

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/health"
	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// The streams that may be looked at, in the order of a cursor, and the families in each.
var liveStreams = [...]struct {
	stream   string
	families []string
}{
	{bus.StreamEvents, []string{bus.FamilyProbe, bus.FamilyCatalog}},
	{bus.StreamAlerts, []string{bus.FamilyAlert}},
	{bus.StreamExports, []string{bus.FamilyExport}},
	{bus.StreamMetrics, []string{bus.FamilyMetric}},
}

const feeds = len(liveStreams)

// liveEvent is a message that people may see. Its text is made once, whoever reads it.
type liveEvent struct {
	seq     uint64
	subject bus.Subject
	msg     *bus.Msg
	once    sync.Once
	json    []byte // nil: not to be shown
}

// newLiveEvent returns nil for what nobody looks at.
func newLiveEvent(msg *bus.Msg) *liveEvent {
	subject, err := bus.ParseSubject(msg.Subject)
	if err != nil || !slices.ContainsFunc(liveStreams[:], func(s struct {
		stream   string
		families []string
	},
	) bool {
		return slices.Contains(s.families, subject.Family)
	}) {
		return nil
	}
	return &liveEvent{seq: msg.Sequence, subject: subject, msg: msg}
}

func (e *liveEvent) size() int { return len(e.msg.Data) + 512 }

// text is the message as JSON of one line; nil when it does not read or says otherwise than its subject: who may publish
// what goes by subjects, and so does who may see it.
func (e *liveEvent) text() []byte {
	e.once.Do(func() {
		payload, err := e.decode()
		if err != nil {
			return
		}
		if text, err := wire.AppendJSON(nil, payload); err == nil {
			e.json = text
		}
	})
	return e.json
}

func (e *liveEvent) decode() (proto.Message, error) {
	switch e.subject.Family {
	case bus.FamilyProbe:
		p := &picketv1.ProbeResult{}
		if err := e.msg.Decode(p); err != nil {
			return nil, err
		}
		return p, bus.CheckResult(e.subject, p, e.msg.Time)
	case bus.FamilyCatalog:
		p := &picketv1.CatalogChange{}
		if err := e.msg.Decode(p); err != nil {
			return nil, err
		}
		withoutSecrets(p.GetServer())
		return p, bus.CheckChange(e.subject, p)
	case bus.FamilyAlert:
		p := &picketv1.AlertEvent{}
		return p, e.read(p, p.GetOrg)
	case bus.FamilyExport:
		p := &picketv1.ExportEvent{}
		return p, e.read(p, p.GetOrg)
	default:
		p := &picketv1.MetricBatch{}
		return p, e.read(p, p.GetOrg)
	}
}

func (e *liveEvent) read(p proto.Message, org func() string) error {
	if err := e.msg.Decode(p); err != nil {
		return err
	}
	if org() != e.subject.Org {
		return bus.ErrContract
	}
	return nil
}

// withoutSecrets takes out what checks present to servers: it is for those who run them.
func withoutSecrets(server *picketv1.Server) {
	for _, check := range server.GetChecks() {
		if http := check.GetHttp(); http != nil {
			http.Headers, http.Body = nil, ""
		}
		if metrics := check.GetMetrics(); metrics != nil {
			metrics.Headers = nil
		}
		if tcp := check.GetTcp(); tcp != nil {
			tcp.Send = ""
		}
	}
}

// liveFilter picks events of one organization; what is empty picks all.
type liveFilter struct {
	org              string
	families         []string
	server, location string
	check            string
	statuses         []string
}

func (f *liveFilter) matches(s *bus.Subject) bool {
	return s.Org == f.org && slices.Contains(f.families, s.Family) && (f.server == "" || s.Server == f.server) &&
		(f.location == "" || s.Location == f.location) && (f.check == "" || s.Check == f.check) &&
		(len(f.statuses) == 0 || s.Family != bus.FamilyProbe || slices.Contains(f.statuses, health.Word(s.Status)))
}

// streams says which streams the families are in.
func (f *liveFilter) streams() (wanted [feeds]bool) {
	for i, s := range liveStreams {
		wanted[i] = slices.ContainsFunc(s.families, func(family string) bool { return slices.Contains(f.families, family) })
	}
	return wanted
}

// liveCursor is a place in each stream.
type liveCursor [feeds]place

// String is `<stream epoch>-<sequence>` of PICKET_EVENTS and, behind `_`, of the other streams that are looked at.
func (c liveCursor) String() string {
	last := 0
	for i, p := range c {
		if p.epoch != 0 {
			last = i
		}
	}
	var b strings.Builder
	for i, p := range c[:last+1] {
		if i > 0 {
			b.WriteByte('_')
		}
		b.WriteString(strconv.FormatInt(p.epoch, 10))
		b.WriteByte('-')
		b.WriteString(strconv.FormatUint(p.seq, 10))
	}
	return b.String()
}

// parseLiveCursor reads what String wrote; ok is false for anything else.
func parseLiveCursor(text string) (c liveCursor, ok bool) {
	parts := strings.Split(text, "_")
	if len(parts) > feeds || len(text) > 256 {
		return c, false
	}
	for i, part := range parts {
		epoch, seq, found := strings.Cut(part, "-")
		e, err1 := strconv.ParseInt(epoch, 10, 64)
		n, err2 := strconv.ParseUint(seq, 10, 63)
		if !found || err1 != nil || err2 != nil || e < 0 {
			return liveCursor{}, false
		}
		c[i] = place{e, n}
	}
	return c, true
}

// liveFrame is what a reader is sent.
type liveFrame struct {
	id    string
	event string
	data  []byte
}

const (
	liveGap       = "gap"
	liveHeartbeat = "heartbeat"
	liveEnd       = "end"
	liveAway      = "away"

	heartbeatEvery = 15 * time.Second
	// livePulse is how often a stream looks whether NATS is there.
	livePulse = time.Second
)
