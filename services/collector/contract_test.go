package collector

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/collector/scrape"
)

// Whatever a server says, what is made of it can be stored: a dead letter would be a server's to make.
func FuzzAnswersKeepTheContract(f *testing.F) {
	f.Add([]byte(currentJSON))
	f.Add([]byte(`{"deep":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + `}`))
	f.Add([]byte(`{"deep":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`))
	f.Add([]byte(`{"long": "` + strings.Repeat("x", scrape.MaxExtra-12) + `"}`))
	f.Add([]byte(`{"": 1, "a\u0000": 2, "b": "\u0000", "c": 1e999, "` + strings.Repeat("n", 300) + `": 1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		reading, err := scrape.JSON(body)
		if err != nil {
			return
		}
		now := time.Now().Truncate(time.Millisecond)
		batch := &picketv1.MetricBatch{
			Org: "default", Location: "local", Server: "app", ScheduledAt: timestamppb.New(now), Instance: "a",
			CheckId: "3f6c1f0e-6c1a-4a3e-9d52-0f6a2f1d9b11", ServerId: "7d41d839-b72c-44bf-a922-0e9fd3c0983d",
			Values: reading.Values, Extra: string(reading.Extra),
		}
		subject, err := bus.ParseSubject(bus.MetricSubject("default", "local", "app"))
		if err != nil {
			t.Fatal(err)
		}
		if err := bus.CheckMetrics(subject, batch, now); err != nil {
			t.Fatalf("%.200q: %v", body, err)
		}
	})
}
