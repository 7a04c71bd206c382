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

// reasonOf is the dead letter's reason for an error of decoding.
func reasonOf(err error) string {
	if errors.Is(err, bus.ErrContract) {
		return bus.ReasonContract
	}
	return bus.ReasonUnreadable
}

// decodeResult reads a result and holds it to the contract. Messages of other families are no results and no errors.
func decodeResult(msg *bus.Msg, epoch int64) (result store.Result, isResult bool, err error) {
	subject, mine, err := parseSubject(msg, bus.FamilyProbe)
	if err != nil || !mine {
		return store.Result{}, false, err
	}
	probe := &picketv1.ProbeResult{}
	if err := msg.Decode(probe); err != nil {
		return store.Result{}, false, err
	}
	if err := bus.CheckResult(subject, probe, msg.Time); err != nil {
		return store.Result{}, false, err
	}
	result, err = toRow(probe)
	result.StreamEpoch, result.StreamSeq, result.Received = epoch, int64(msg.Sequence), msg.Time
	return result, err == nil, err
}

// parseSubject parses a subject and says whether it is of the family. One that only looks like it is an error.
func parseSubject(msg *bus.Msg, family string) (subject bus.Subject, mine bool, err error) {
	subject, err = bus.ParseSubject(msg.Subject)
	if err != nil {
		if tokens := strings.SplitN(msg.Subject, ".", 4); len(tokens) == 4 && tokens[2] == family {
			return bus.Subject{}, false, err
		}
		return bus.Subject{}, false, nil
	}
	return subject, subject.Family == family, nil
}

// toRow is the row of a result that keeps the contract.
func toRow(probe *picketv1.ProbeResult) (store.Result, error) {
	id, err := uuid.Parse(probe.GetCheckId())
	if err != nil {
		return store.Result{}, fmt.Errorf("%w: %w", bus.ErrContract, err)
	}
	details, err := detailsOf(probe)
	if err != nil {
		return store.Result{}, err
	}
	return store.Result{
		CheckID: id, Location: probe.GetLocation(), ScheduledAt: timeOf(probe.GetScheduledAt()),
		Status: probe.GetStatus(), Latency: time.Duration(probe.GetLatencyUs()) * time.Microsecond,
		HTTPStatus: int16(probe.GetHttpStatus()), Reason: probe.GetReason(), Message: probe.GetMessage(),
		StartedAt: timeOf(probe.GetStartedAt()), Instance: probe.GetInstance(), Revision: int32(probe.GetRevision()),
		// Unknown says that we failed to look, whatever the reason: a real outcome of the tick takes its place.
		Missed: probe.GetStatus() == picketv1.Status_STATUS_UNKNOWN, MissedUntil: timeOf(probe.GetMissedUntil()),
		OnDemand: probe.GetOnDemand(), CertificateNotAfter: timeOf(probe.GetCertificateNotAfter()),
		ConnectionReused: probe.GetConnectionReused(), Details: details, Samples: samplesOf(probe),
		Org: probe.GetOrg(), Server: probe.GetServer(), Check: probe.GetCheck(), Kind: probe.GetKind(),
	}, nil
}

// timeOf is the zero time for one that is not set.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
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
		return nil, fmt.Errorf("%w: details: %w", bus.ErrContract, err)
	}
	return text, nil
}

// maxSampleName bounds what a sample may be called: the name is part of its key. Counters with longer names stay in the
// details of their result.
const maxSampleName = 255

// samplesOf are the counters of a result as figures of their server.
func samplesOf(probe *picketv1.ProbeResult) []store.Sample {
	if len(probe.GetCounters()) == 0 || probe.GetStatus() == picketv1.Status_STATUS_UNKNOWN {
		return nil // who did not look has seen nothing, and must not stand in the way of who did
	}
	at := timeOf(probe.GetScheduledAt())
	tags := store.Tags(map[string]string{"check": probe.GetCheck(), "location": probe.GetLocation()})
	samples := make([]store.Sample, 0, len(probe.GetCounters()))
	for name, value := range probe.GetCounters() {
		if name != "" && len(name) <= maxSampleName && !math.IsNaN(value) && !math.IsInf(value, 0) {
			samples = append(samples, store.Sample{
				Org: probe.GetOrg(), Name: name, Service: probe.GetServer(), Tags: tags, Time: at, Value: value,
			})
		}
	}
	return samples
}
