package bus

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestCheckMetrics(t *testing.T) {
	t.Parallel()
	const id = "3f0c6f5e-8d5f-4c0e-9f6e-2f6b6f1f2a01"
	received := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(received.Add(d)) }
	server := func(change func(*picketv1.MetricBatch)) *picketv1.MetricBatch {
		b := &picketv1.MetricBatch{
			Org: "default", Location: "local", Server: "checkout", CheckId: id, ServerId: id, ScheduledAt: at(0), Instance: "one",
			Values: map[string]float64{"cpu_percent": 1.5}, Extra: `{"os":"linux","list":[1,{"a":"}]\""}]}`,
		}
		change(b)
		return b
	}
	platform := func(change func(*picketv1.MetricBatch)) *picketv1.MetricBatch {
		b := &picketv1.MetricBatch{
			Org: "default", Location: "local", Server: PlatformServer, ScheduledAt: at(0), Instance: "one",
			Samples: []*picketv1.Sample{{Name: "connections", Service: "postgres", Value: 3, Tags: map[string]string{"a": "b"}}},
		}
		change(b)
		return b
	}
	none := func(*picketv1.MetricBatch) {}
	long := strings.Repeat("x", maxName+1)
	for name, test := range map[string]struct {
		batch *picketv1.MetricBatch
		ok    bool
	}{
		"server":                {server(none), true},
		"platform":              {platform(none), true},
		"nothing shown":         {server(func(b *picketv1.MetricBatch) { b.Values, b.Extra = nil, "" }), true},
		"as late as may be":     {server(func(b *picketv1.MetricBatch) { b.ScheduledAt = at(-MostLate) }), true},
		"as early as may be":    {server(func(b *picketv1.MetricBatch) { b.ScheduledAt = at(MostEarly) }), true},
		"too late":              {server(func(b *picketv1.MetricBatch) { b.ScheduledAt = at(-MostLate - time.Millisecond) }), false},
		"too early":             {platform(func(b *picketv1.MetricBatch) { b.ScheduledAt = at(MostEarly + time.Millisecond) }), false},
		"between milliseconds":  {server(func(b *picketv1.MetricBatch) { b.ScheduledAt = at(time.Microsecond) }), false},
		"no tick":               {server(func(b *picketv1.MetricBatch) { b.ScheduledAt = nil }), false},
		"no time at all":        {server(func(b *picketv1.MetricBatch) { b.ScheduledAt = &timestamppb.Timestamp{Nanos: -1} }), false},
		"another organization":  {server(func(b *picketv1.MetricBatch) { b.Org = "other" }), false},
		"organization in caps":  {server(func(b *picketv1.MetricBatch) { b.Org = "Default" }), false},
		"another place":         {server(func(b *picketv1.MetricBatch) { b.Location = "eu" }), false},
		"another server":        {server(func(b *picketv1.MetricBatch) { b.Server = "x" }), false},
		"no server":             {server(func(b *picketv1.MetricBatch) { b.Server = "" }), false},
		"long instance":         {server(func(b *picketv1.MetricBatch) { b.Instance = long }), false},
		"no check":              {server(func(b *picketv1.MetricBatch) { b.CheckId = "" }), false},
		"no server id":          {server(func(b *picketv1.MetricBatch) { b.ServerId = "{" + id + "}" }), false},
		"nobody's check":        {server(func(b *picketv1.MetricBatch) { b.CheckId = "00000000-0000-0000-0000-000000000000" }), false},
		"no number":             {server(func(b *picketv1.MetricBatch) { b.Values["x"] = math.NaN() }), false},
		"infinite":              {server(func(b *picketv1.MetricBatch) { b.Values["x"] = math.Inf(-1) }), false},
		"figure without a name": {server(func(b *picketv1.MetricBatch) { b.Values[""] = 1 }), false},
		"long name":             {server(func(b *picketv1.MetricBatch) { b.Values[long] = 1 }), false},
		"samples of a server":   {server(func(b *picketv1.MetricBatch) { b.Samples = []*picketv1.Sample{{Name: "x", Service: "y"}} }), false},
		"extra is a list":       {server(func(b *picketv1.MetricBatch) { b.Extra = `[]` }), false},
		"extra is null":         {server(func(b *picketv1.MetricBatch) { b.Extra = `null` }), false},
		"extra is cut":          {server(func(b *picketv1.MetricBatch) { b.Extra = `{"a":` }), false},
		"extra is large":        {server(func(b *picketv1.MetricBatch) { b.Extra = `{"a":"` + strings.Repeat("x", MostExtra) + `"}` }), false},
		"extra is deep": {server(func(b *picketv1.MetricBatch) {
			b.Extra = `{"a":` + strings.Repeat("[", MostDepth) + strings.Repeat("]", MostDepth) + `}`
		}), false},
		"extra is as deep as may be": {server(func(b *picketv1.MetricBatch) {
			b.Extra = `{"a":` + strings.Repeat("[", MostDepth-1) + strings.Repeat("]", MostDepth-1) + `}`
		}), true},
		"brackets in text":        {server(func(b *picketv1.MetricBatch) { b.Extra = `{"a":"` + strings.Repeat(`[\"`, 100) + `"}` }), true},
		"platform with values":    {platform(func(b *picketv1.MetricBatch) { b.Values = map[string]float64{"x": 1} }), false},
		"platform with a check":   {platform(func(b *picketv1.MetricBatch) { b.CheckId = id }), false},
		"sample of no service":    {platform(func(b *picketv1.MetricBatch) { b.Samples[0].Service = "" }), false},
		"sample without a name":   {platform(func(b *picketv1.MetricBatch) { b.Samples[0].Name = "" }), false},
		"sample that is infinite": {platform(func(b *picketv1.MetricBatch) { b.Samples[0].Value = math.Inf(1) }), false},
		"long tag":                {platform(func(b *picketv1.MetricBatch) { b.Samples[0].Tags["x"] = long }), false},
		"empty tag":               {platform(func(b *picketv1.MetricBatch) { b.Samples[0].Tags[""] = "x" }), false},
		"many tags": {platform(func(b *picketv1.MetricBatch) {
			for i := range maxTags {
				b.Samples[0].Tags[string(rune('A'+i))] = ""
			}
		}), false},
		"many samples": {platform(func(b *picketv1.MetricBatch) {
			for range MostSamples {
				b.Samples = append(b.Samples, b.Samples[0])
			}
		}), false},
		"many values": {server(func(b *picketv1.MetricBatch) {
			for i := range MostValues {
				b.Values[strings.Repeat("v", 1+i%200)+string(rune('A'+i/200))] = 1
			}
		}), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			where := "checkout"
			if test.batch.GetServer() == PlatformServer {
				where = PlatformServer
			}
			subject, err := ParseSubject(MetricSubject("default", "local", where))
			if err != nil {
				t.Fatal(err)
			}
			err = CheckMetrics(subject, test.batch, received)
			if test.ok && err != nil {
				t.Error(err)
			}
			if !test.ok && !errors.Is(err, ErrContract) {
				t.Errorf("%v, want ErrContract", err)
			}
		})
	}
}
