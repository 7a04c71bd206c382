package writer

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/health"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// The contract of results: how far a tick may lie from the stream time of its message, and how large things may be.
const (
	mostLate  = 25 * time.Hour
	mostEarly = 60 * time.Second

	maxName       = 255
	maxMessage    = 4096
	maxComponents = 64
	maxCounters   = 512
)

// errContract is wrapped by what reads but says what it must not.
var errContract = errors.New("against the contract")

func violates(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errContract, fmt.Sprintf(format, args...))
}

// reasonOf is the dead letter's reason for an error of decode.
func reasonOf(err error) string {
	if errors.Is(err, errContract) {
		return bus.ReasonContract
	}
	return bus.ReasonUnreadable
}

// decode reads a result and holds it to the contract. Messages of other families are no results and no errors.
func decode(msg *bus.Msg) (result store.Result, isResult bool, err error) {
	subject, err := bus.ParseSubject(msg.Subject)
	if err != nil {
		if tokens := strings.SplitN(msg.Subject, ".", 4); len(tokens) == 4 && tokens[2] == bus.FamilyProbe {
			return store.Result{}, false, err
		}
		return store.Result{}, false, nil
	}
	if subject.Family != bus.FamilyProbe {
		return store.Result{}, false, nil
	}
	probe := &picketv1.ProbeResult{}
	if err := msg.Decode(probe); err != nil {
		return store.Result{}, false, err
	}
	if err := matchSubject(probe, subject); err != nil {
		return store.Result{}, false, err
	}
	if err := inBounds(probe); err != nil {
		return store.Result{}, false, err
	}
	result, err = toRow(probe, msg.Time)
	result.StreamSeq = int64(msg.Sequence)
	return result, err == nil, err
}

// matchSubject refuses a payload that is not what people were shown: permissions and filters go by the subject.
func matchSubject(probe *picketv1.ProbeResult, subject bus.Subject) error {
	for _, part := range []struct{ name, payload, subject string }{
		{"org", probe.GetOrg(), subject.Org},
		{"location", probe.GetLocation(), subject.Location},
		{"server", probe.GetServer(), subject.Server},
		{"check", probe.GetCheck(), subject.Check},
	} {
		switch {
		case part.payload == "":
			return violates("%s missing", part.name)
		case len(part.payload) > maxName:
			return violates("%s longer than %d bytes", part.name, maxName)
		case bus.Token(part.payload) != part.subject:
			return violates("%s %q under a subject of %q", part.name, part.payload, part.subject)
		}
	}
	// The organization is the tenant: it is its token, not something that maps to it.
	if probe.GetOrg() != subject.Org {
		return violates("org %q is not a slug", probe.GetOrg())
	}
	if probe.GetStatus() != subject.Status {
		return violates("status %s under a subject of %s", health.Word(probe.GetStatus()), health.Word(subject.Status))
	}
	return nil
}

func inBounds(probe *picketv1.ProbeResult) error {
	for _, text := range []struct {
		name, value string
		most        int
	}{
		{"kind", probe.GetKind(), maxName},
		{"instance", probe.GetInstance(), maxName},
		{"reason", probe.GetReason(), maxName},
		{"message", probe.GetMessage(), maxMessage},
	} {
		if len(text.value) > text.most {
			return violates("%s longer than %d bytes", text.name, text.most)
		}
	}
	switch {
	case probe.GetStatus() < picketv1.Status_STATUS_HEALTHY || probe.GetStatus() > picketv1.Status_STATUS_UNKNOWN:
		return violates("status %d", probe.GetStatus())
	case probe.GetLatencyUs() < 0 || probe.GetLatencyUs() > math.MaxInt32:
		return violates("latency %d µs", probe.GetLatencyUs())
	case probe.GetHttpStatus() < 0 || probe.GetHttpStatus() > 999:
		return violates("http status %d", probe.GetHttpStatus())
	case probe.GetRevision() < 0 || probe.GetRevision() > math.MaxInt32:
		return violates("revision %d", probe.GetRevision())
	case len(probe.GetComponents()) > maxComponents:
		return violates("%d components", len(probe.GetComponents()))
	case len(probe.GetCounters()) > maxCounters:
		return violates("%d counters", len(probe.GetCounters()))
	}
	return nil
}

func toRow(probe *picketv1.ProbeResult, received time.Time) (store.Result, error) {
	id, err := uuid.Parse(probe.GetCheckId())
	if err != nil || len(probe.GetCheckId()) != 36 {
		return store.Result{}, violates("check id %q is not a uuid", probe.GetCheckId())
	}
	var faults []error
	at := func(name string, t *timestamppb.Timestamp) time.Time {
		if t == nil {
			return time.Time{}
		}
		if err := t.CheckValid(); err != nil {
			faults = append(faults, violates("%s: %v", name, err))
		}
		return t.AsTime()
	}
	scheduled := at("scheduled_at", probe.GetScheduledAt())
	started := at("started_at", probe.GetStartedAt())
	until := at("missed_until", probe.GetMissedUntil())
	certificate := at("certificate_not_after", probe.GetCertificateNotAfter())
	if len(faults) > 0 {
		return store.Result{}, errors.Join(faults...)
	}
	missed := probe.GetStatus() == picketv1.Status_STATUS_UNKNOWN
	switch {
	case scheduled.IsZero():
		return store.Result{}, violates("scheduled_at missing")
	case scheduled.Nanosecond()%int(time.Millisecond) != 0:
		return store.Result{}, violates("scheduled_at is not in whole milliseconds")
	case scheduled.Before(received.Add(-mostLate)) || scheduled.After(received.Add(mostEarly)):
		return store.Result{}, violates("scheduled_at %s, received %s", scheduled.Format(time.RFC3339Nano), received.UTC().Format(time.RFC3339Nano))
	case !until.IsZero() && (!missed || until.Before(scheduled) || until.After(received.Add(mostEarly))):
		return store.Result{}, violates("missed_until %s", until.Format(time.RFC3339Nano))
	}
	details, err := detailsOf(probe)
	if err != nil {
		return store.Result{}, err
	}
	return store.Result{
		CheckID: id, Location: probe.GetLocation(), ScheduledAt: scheduled,
		Status: probe.GetStatus(), Latency: time.Duration(probe.GetLatencyUs()) * time.Microsecond,
		HTTPStatus: int16(probe.GetHttpStatus()), Reason: probe.GetReason(), Message: probe.GetMessage(),
		StartedAt: started, Instance: probe.GetInstance(), Revision: int32(probe.GetRevision()),
		// Unknown says that we failed to look, whatever the reason: a real outcome of the tick takes its place.
		Missed: missed, MissedUntil: until, OnDemand: probe.GetOnDemand(),
		CertificateNotAfter: certificate, ConnectionReused: probe.GetConnectionReused(), Details: details,
		Org: probe.GetOrg(), Server: probe.GetServer(), Check: probe.GetCheck(), Kind: probe.GetKind(),
	}, nil
}

// details is the column of that name: what only some bodies say.
type details struct {
	Components []component         `json:"components,omitempty"`
	Counters   map[string]*float64 `json:"counters,omitempty"`
}

type component struct {
	Name   string `json:"name"`
	Status string `json:"status"`
}

func detailsOf(probe *picketv1.ProbeResult) ([]byte, error) {
	if len(probe.GetComponents()) == 0 && len(probe.GetCounters()) == 0 {
		return nil, nil
	}
	d := details{Counters: make(map[string]*float64, len(probe.GetCounters()))}
	for _, c := range probe.GetComponents() {
		d.Components = append(d.Components, component{c.GetName(), health.Word(c.GetStatus())})
	}
	for name, value := range probe.GetCounters() {
		d.Counters[name] = &value
		if math.IsNaN(value) || math.IsInf(value, 0) {
			d.Counters[name] = nil // JSON has no word for it
		}
	}
	text, err := json.Marshal(d)
	if err != nil {
		return nil, violates("details: %v", err)
	}
	return text, nil
}
