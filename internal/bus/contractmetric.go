package bus

import (
	"encoding/json"
	"math"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// The contract of metrics: how much one batch may hold.
const (
	// MostValues is how many figures of a server one batch may hold, MostSamples how many of Picket's own parts.
	MostValues  = 2048
	MostSamples = 10_000
	// MostExtra is how many bytes of JSON may come beside the figures, and MostDepth how deep it may be nested.
	MostExtra = 64 << 10
	MostDepth = 32
	maxTags   = 16
)

// CheckMetrics holds a batch of metrics to the contract, given the subject that it came under and when the stream took
// it: names and places are those of the subject, every figure is a finite number with a name, the tick lies as near to
// the stream time as that of a result must, and a batch is of a server (values, extra) or of Picket's own parts
// (samples), not of both. Whoever makes batches keeps to it, whoever reads them asks this first. The error wraps
// ErrContract.
func CheckMetrics(s Subject, p *picketv1.MetricBatch, received time.Time) error {
	for _, part := range []struct{ name, payload, subject string }{
		{"org", p.GetOrg(), s.Org}, {"location", p.GetLocation(), s.Location}, {"server", p.GetServer(), s.Server},
	} {
		switch {
		case part.payload == "":
			return violates("%s missing", part.name)
		case len(part.payload) > maxName:
			return violates("%s longer than %d bytes", part.name, maxName)
		case Token(part.payload) != part.subject:
			return violates("%s %q under a subject of %q", part.name, part.payload, part.subject)
		}
	}
	if p.GetOrg() != s.Org {
		return violates("org %q is not a slug", p.GetOrg())
	}
	if len(p.GetInstance()) > maxName {
		return violates("instance longer than %d bytes", maxName)
	}
	if err := tickInTime(p.GetScheduledAt(), received); err != nil {
		return err
	}
	if p.GetServer() == PlatformServer {
		return checkSamples(p)
	}
	return checkValues(p)
}

// tickInTime is the window of a tick around the stream time of its message.
func tickInTime(at *timestamppb.Timestamp, received time.Time) error {
	if at == nil {
		return violates("scheduled_at missing")
	}
	if err := at.CheckValid(); err != nil {
		return violates("scheduled_at: %v", err)
	}
	scheduled := at.AsTime()
	switch {
	case scheduled.Nanosecond()%int(time.Millisecond) != 0:
		return violates("scheduled_at is not in whole milliseconds")
	case scheduled.Before(received.Add(-MostLate)) || scheduled.After(received.Add(MostEarly)):
		return violates("scheduled_at %s, received %s", scheduled.Format(time.RFC3339Nano), received.UTC().Format(time.RFC3339Nano))
	}
	return nil
}

func checkValues(p *picketv1.MetricBatch) error {
	for name, id := range map[string]string{"check": p.GetCheckId(), "server": p.GetServerId()} {
		if parsed, err := uuid.Parse(id); err != nil || len(id) != 36 || parsed == uuid.Nil {
			return violates("%s id %q is not a uuid", name, clip(id))
		}
	}
	switch {
	case len(p.GetSamples()) > 0:
		return violates("samples of a server")
	case len(p.GetValues()) > MostValues:
		return violates("%d values", len(p.GetValues()))
	case len(p.GetExtra()) > MostExtra:
		return violates("extra longer than %d bytes", MostExtra)
	}
	for name, value := range p.GetValues() {
		if err := checkFigure(name, value); err != nil {
			return err
		}
	}
	return checkExtra(p.GetExtra())
}

func checkSamples(p *picketv1.MetricBatch) error {
	switch {
	case p.GetCheckId() != "" || p.GetServerId() != "" || len(p.GetValues()) > 0 || p.GetExtra() != "":
		return violates("figures of a server under %s", PlatformServer)
	case len(p.GetSamples()) > MostSamples:
		return violates("%d samples", len(p.GetSamples()))
	}
	for _, sample := range p.GetSamples() {
		if err := checkFigure(sample.GetName(), sample.GetValue()); err != nil {
			return err
		}
		if sample.GetService() == "" || len(sample.GetService()) > maxName {
			return violates("service of %q", sample.GetName())
		}
		if len(sample.GetTags()) > maxTags {
			return violates("%d tags of %q", len(sample.GetTags()), sample.GetName())
		}
		for key, value := range sample.GetTags() {
			if key == "" || len(key) > maxName || len(value) > maxName {
				return violates("a tag of %q is empty or longer than %d bytes", sample.GetName(), maxName)
			}
		}
	}
	return nil
}

func checkFigure(name string, value float64) error {
	switch {
	case name == "" || len(name) > maxName:
		return violates("a figure without a name, or with one longer than %d bytes", maxName)
	case math.IsNaN(value) || math.IsInf(value, 0):
		return violates("%q is no finite number", name)
	}
	return nil
}

// checkExtra wants a JSON object that no reader has to recurse far into.
func checkExtra(text string) error {
	if text == "" {
		return nil
	}
	depth, deepest, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	if deepest > MostDepth {
		return violates("extra nested deeper than %d", MostDepth)
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &object); err != nil || object == nil {
		return violates("extra is no JSON object")
	}
	return nil
}
