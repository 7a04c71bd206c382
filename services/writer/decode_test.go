package writer

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const checkID = "3f0c6f5e-8d5f-4c0e-9f6e-2f6b6f1f2a01"

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// probe is a result that was due at an instant.
func probe(at time.Time) *picketv1.ProbeResult {
	return &picketv1.ProbeResult{
		Status: picketv1.Status_STATUS_CRITICAL, Org: "default", Server: "checkout", Check: "health", Location: "local",
		Kind: "http", CheckId: checkID, Revision: 3, LatencyUs: 1500, HttpStatus: 503, Reason: "http_503",
		Message: "503 Service Unavailable", Instance: "host-1", ScheduledAt: timestamppb.New(at),
		StartedAt: timestamppb.New(at.Add(2 * time.Millisecond)), ConnectionReused: true,
		CertificateNotAfter: timestamppb.New(at.Add(time.Hour)),
		Components:          []*picketv1.Component{{Name: "database", Status: picketv1.Status_STATUS_CRITICAL}},
		Counters:            map[string]float64{"rows": 2, "broken": math.NaN()},
	}
}

func subjectOf(r *picketv1.ProbeResult) string {
	return bus.ProbeSubject(r.GetOrg(), r.GetStatus(), r.GetLocation(), r.GetServer(), r.GetCheck())
}

func message(t testing.TB, encoding wire.Encoding, subject string, r proto.Message, received time.Time) *bus.Msg {
	t.Helper()
	data, err := encoding.Append(nil, r)
	if err != nil {
		t.Fatal(err)
	}
	return &bus.Msg{Subject: subject, Data: data, ContentType: encoding.ContentType(), Time: received, Sequence: 7, Deliveries: 1}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	want := store.Result{
		Location: "local", ScheduledAt: noon, Status: picketv1.Status_STATUS_CRITICAL, Latency: 1500 * time.Microsecond,
		HTTPStatus: 503, Reason: "http_503", Message: "503 Service Unavailable", StartedAt: noon.Add(2 * time.Millisecond),
		Instance: "host-1", Revision: 3, CertificateNotAfter: noon.Add(time.Hour), ConnectionReused: true, StreamEpoch: 5, StreamSeq: 7, Received: noon.Add(time.Second),
		Org: "default", Server: "checkout", Check: "health", Kind: "http",
		Details: []byte(`{"components":[{"name":"database","status":"critical"}],"counters":{"broken":null,"rows":2}}`),
		Samples: []store.Sample{{
			Org: "default", Name: "rows", Service: "checkout", Tags: `{"check":"health","location":"local"}`, Time: noon, Value: 2,
		}},
	}
	if err := want.CheckID.UnmarshalText([]byte(checkID)); err != nil {
		t.Fatal(err)
	}
	r := probe(noon)
	got, isResult, err := decodeResult(message(t, wire.Protobuf, subjectOf(r), r, noon.Add(time.Second)), 5)
	if err != nil || !isResult {
		t.Fatal(isResult, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	delete(r.Counters, "broken")
	want.Details = []byte(`{"components":[{"name":"database","status":"critical"}],"counters":{"rows":2}}`)
	got, _, err = decodeResult(message(t, wire.JSON, subjectOf(r), r, noon.Add(time.Second)), 5)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestDecodeLeavesOtherFamilies(t *testing.T) {
	t.Parallel()
	for _, subject := range []string{
		bus.ClockSubject, bus.CatalogSubject("default", "added", "checkout"), "picket.default.command.close.1", "nonsense",
	} {
		if _, isResult, err := decodeResult(&bus.Msg{Subject: subject, Data: []byte("?"), Time: noon}, 5); isResult || err != nil {
			t.Errorf("%s: %v, %v", subject, isResult, err)
		}
		if _, isMetric, err := decodeMetric(&bus.Msg{Subject: subject, Data: []byte("?"), Time: noon}, 5); isMetric || err != nil {
			t.Errorf("%s: %v, %v", subject, isMetric, err)
		}
	}
}

func TestDecodeHoldsTheContract(t *testing.T) {
	t.Parallel()
	unknown := func(r *picketv1.ProbeResult) { r.Status = picketv1.Status_STATUS_UNKNOWN }
	for name, test := range map[string]struct {
		change func(*picketv1.ProbeResult)
		ok     bool
	}{
		"as it should be": {func(*picketv1.ProbeResult) {}, true},
		"25 hours late":   {func(r *picketv1.ProbeResult) { r.ScheduledAt = timestamppb.New(noon.Add(-25 * time.Hour)) }, true},
		"later than 25 hours": {func(r *picketv1.ProbeResult) {
			r.ScheduledAt = timestamppb.New(noon.Add(-25*time.Hour - time.Millisecond))
		}, false},
		"60 seconds early": {func(r *picketv1.ProbeResult) { r.ScheduledAt = timestamppb.New(noon.Add(time.Minute)) }, true},
		"earlier than 60 seconds": {func(r *picketv1.ProbeResult) {
			r.ScheduledAt = timestamppb.New(noon.Add(time.Minute + time.Millisecond))
		}, false},
		"1970":                  {func(r *picketv1.ProbeResult) { r.ScheduledAt = timestamppb.New(time.Unix(0, 0)) }, false},
		"9999":                  {func(r *picketv1.ProbeResult) { r.ScheduledAt.Seconds = 253402300799 }, false},
		"no instant":            {func(r *picketv1.ProbeResult) { r.ScheduledAt = nil }, false},
		"beyond every calendar": {func(r *picketv1.ProbeResult) { r.ScheduledAt.Seconds = math.MaxInt64 }, false},
		"microseconds":          {func(r *picketv1.ProbeResult) { r.ScheduledAt.Nanos = 1000 }, false},
		"no check id":           {func(r *picketv1.ProbeResult) { r.CheckId = "" }, false},
		"check id in braces":    {func(r *picketv1.ProbeResult) { r.CheckId = "{" + checkID + "}" }, false},
		"other org":             {func(r *picketv1.ProbeResult) { r.Org = "other" }, false},
		"org that maps to it":   {func(r *picketv1.ProbeResult) { r.Org = "Default" }, false},
		"other server":          {func(r *picketv1.ProbeResult) { r.Server = "other" }, false},
		"no location":           {func(r *picketv1.ProbeResult) { r.Location = "" }, false},
		"other status":          {func(r *picketv1.ProbeResult) { r.Status = picketv1.Status_STATUS_HEALTHY }, false},
		"status of nobody":      {func(r *picketv1.ProbeResult) { r.Status = 42 }, false},
		"latency of an hour":    {func(r *picketv1.ProbeResult) { r.LatencyUs = time.Hour.Microseconds() }, false},
		"negative latency":      {func(r *picketv1.ProbeResult) { r.LatencyUs = -1 }, false},
		"http status 70000":     {func(r *picketv1.ProbeResult) { r.HttpStatus = 70000 }, false},
		"endless message":       {func(r *picketv1.ProbeResult) { r.Message = strings.Repeat("x", 4096+1) }, false},
		"endless server":        {func(r *picketv1.ProbeResult) { r.Server = strings.Repeat("x", 256) }, false},
		"too many counters": {func(r *picketv1.ProbeResult) {
			for i := range 513 {
				r.Counters[fmt.Sprint(i)] = 1
			}
		}, false},
		"span of a seen tick":  {func(r *picketv1.ProbeResult) { r.MissedUntil = r.ScheduledAt }, false},
		"span":                 {func(r *picketv1.ProbeResult) { unknown(r); r.MissedUntil = timestamppb.New(noon.Add(time.Second)) }, true},
		"span backwards":       {func(r *picketv1.ProbeResult) { unknown(r); r.MissedUntil = timestamppb.New(noon.Add(-time.Second)) }, false},
		"span into the future": {func(r *picketv1.ProbeResult) { unknown(r); r.MissedUntil = timestamppb.New(noon.Add(time.Hour)) }, false},
	} {
		r := probe(noon)
		subject := subjectOf(r)
		test.change(r)
		if r.GetStatus() == picketv1.Status_STATUS_UNKNOWN {
			subject = subjectOf(r)
		}
		got, isResult, err := decodeResult(message(t, wire.Protobuf, subject, r, noon), 5)
		switch {
		case test.ok && (err != nil || !isResult):
			t.Errorf("%s: refused: %v", name, err)
		case test.ok && got.Missed != (r.GetStatus() == picketv1.Status_STATUS_UNKNOWN):
			t.Errorf("%s: missed %v", name, got.Missed)
		case !test.ok && !errors.Is(err, bus.ErrContract):
			t.Errorf("%s: %v, want a violation of the contract", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	r := probe(noon)
	for _, encoding := range []wire.Encoding{wire.JSON, wire.Protobuf} {
		delete(r.Counters, "broken")
		msg := message(f, encoding, subjectOf(r), r, noon)
		f.Add(msg.Subject, msg.ContentType, msg.Data)
	}
	f.Add("picket.x.probe.what.is.this", "", []byte("{"))
	f.Fuzz(func(t *testing.T, subject, contentType string, data []byte) {
		got, isResult, err := decodeResult(&bus.Msg{Subject: subject, ContentType: contentType, Data: data, Time: noon, Sequence: 1}, 5)
		if !isResult || err != nil {
			return
		}
		if got.Org == "" || got.ScheduledAt.IsZero() || got.Status < 1 || got.Status > 5 || got.Latency < 0 ||
			len(got.Message) > 4096 || got.ScheduledAt.Before(noon.Add(-bus.MostLate)) {
			t.Errorf("let through %+v", got)
		}
	})
}

func TestSamplesOfResults(t *testing.T) {
	t.Parallel()
	r := probe(noon)
	r.Counters = map[string]float64{"": 1, strings.Repeat("x", 256): 1, strings.Repeat("y", 255): 1, "inf": math.Inf(1)}
	if got := samplesOf(r); len(got) != 1 || got[0].Name[0] != 'y' {
		t.Errorf("samples %+v, want the one whose name and value can be stored", got)
	}
	r.Status = picketv1.Status_STATUS_UNKNOWN
	if got := samplesOf(r); len(got) != 0 {
		t.Errorf("samples %+v of a look that failed", got)
	}
}

// TestContractOfStates: the database takes a state of the future for one that was taken back exactly when its result
// would have been refused.
func TestContractOfStates(t *testing.T) {
	t.Parallel()
	if store.MostAhead != bus.MostEarly {
		t.Errorf("results may lie %s ahead, states %s", bus.MostEarly, store.MostAhead)
	}
}
