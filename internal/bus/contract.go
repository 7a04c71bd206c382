package bus

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// The contract of results: how far a tick may lie from the stream time of its message.
const (
	MostLate  = 25 * time.Hour
	MostEarly = 60 * time.Second
)

// How large things may be.
const (
	maxName       = 255
	maxText       = 4096
	maxComponents = 64
	maxCounters   = 512
)

// Verbs of commands.
const (
	VerbAcknowledge = "acknowledge"
	VerbClose       = "close"
)

// ErrContract is wrapped by what reads but says what it must not.
var ErrContract = errors.New("against the contract")

func violates(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrContract, fmt.Sprintf(format, args...))
}

// CheckResult holds a result to the contract, given the subject that it came under and when the stream took it. Whoever
// reads results asks this before it believes one, so that none is history to one service and nothing to another. The
// error wraps ErrContract.
func CheckResult(s Subject, p *picketv1.ProbeResult, received time.Time) error {
	if err := matchResult(s, p); err != nil {
		return err
	}
	if err := inBounds(p); err != nil {
		return err
	}
	return inTime(p, received)
}

// CheckChange holds a change of the catalog to the contract: it is about the server that its subject names. The error
// wraps ErrContract.
func CheckChange(s Subject, p *picketv1.CatalogChange) error {
	server := p.GetServer()
	switch {
	case server.GetOrg() != s.Org:
		return violates("org %q under a subject of %q", clip(server.GetOrg()), s.Org)
	case server.GetName() != s.Server:
		return violates("server %q under a subject of %q", clip(server.GetName()), s.Server)
	case Token(p.GetChange()) != s.Verb:
		return violates("change %q under a subject of %q", clip(p.GetChange()), s.Verb)
	}
	return nil
}

// CheckCommand holds a command to the contract: it is what its subject says, of a known verb, about an alert that has an
// id, and no longer than it may be. The error wraps ErrContract.
func CheckCommand(s Subject, p *picketv1.Command) error {
	switch {
	case p.GetOrg() != s.Org:
		return violates("org %q under a subject of %q", clip(p.GetOrg()), s.Org)
	case Token(p.GetVerb()) != s.Verb:
		return violates("verb %q under a subject of %q", clip(p.GetVerb()), s.Verb)
	case p.GetId() != s.ID:
		return violates("id %q under a subject of %q", clip(p.GetId()), s.ID)
	case p.GetVerb() != VerbAcknowledge && p.GetVerb() != VerbClose:
		return violates("verb %q", clip(p.GetVerb()))
	case len(p.GetActor()) > maxName:
		return violates("actor longer than %d bytes", maxName)
	case len(p.GetNote()) > maxText:
		return violates("note longer than %d bytes", maxText)
	}
	for _, id := range []string{p.GetId(), p.GetAlertId()} {
		if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
			return violates("id %q is not a uuid", clip(id))
		}
	}
	return nil
}

// matchResult refuses a payload that is not what people were shown: permissions and filters go by the subject.
func matchResult(s Subject, p *picketv1.ProbeResult) error {
	for _, part := range []struct{ name, payload, subject string }{
		{"org", p.GetOrg(), s.Org},
		{"location", p.GetLocation(), s.Location},
		{"server", p.GetServer(), s.Server},
		{"check", p.GetCheck(), s.Check},
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
	// The organization is the tenant: it is its token, not something that maps to it.
	if p.GetOrg() != s.Org {
		return violates("org %q is not a slug", p.GetOrg())
	}
	if p.GetStatus() != s.Status {
		return violates("status %s under a subject of %s", health.Word(p.GetStatus()), health.Word(s.Status))
	}
	return nil
}

func inBounds(p *picketv1.ProbeResult) error {
	for _, text := range []struct {
		name, value string
		most        int
	}{
		{"kind", p.GetKind(), maxName},
		{"instance", p.GetInstance(), maxName},
		{"reason", p.GetReason(), maxName},
		{"message", p.GetMessage(), maxText},
	} {
		if len(text.value) > text.most {
			return violates("%s longer than %d bytes", text.name, text.most)
		}
	}
	switch {
	case p.GetStatus() < picketv1.Status_STATUS_HEALTHY || p.GetStatus() > picketv1.Status_STATUS_UNKNOWN:
		return violates("status %d", p.GetStatus())
	case p.GetLatencyUs() < 0 || p.GetLatencyUs() > math.MaxInt32:
		return violates("latency %d µs", p.GetLatencyUs())
	case p.GetHttpStatus() < 0 || p.GetHttpStatus() > 999:
		return violates("http status %d", p.GetHttpStatus())
	case p.GetRevision() < 0 || p.GetRevision() > math.MaxInt32:
		return violates("revision %d", p.GetRevision())
	case len(p.GetComponents()) > maxComponents:
		return violates("%d components", len(p.GetComponents()))
	case len(p.GetCounters()) > maxCounters:
		return violates("%d counters", len(p.GetCounters()))
	}
	if _, err := uuid.Parse(p.GetCheckId()); err != nil || len(p.GetCheckId()) != 36 {
		return violates("check id %q is not a uuid", clip(p.GetCheckId()))
	}
	return nil
}

func inTime(p *picketv1.ProbeResult, received time.Time) error {
	for _, at := range []struct {
		name string
		time *timestamppb.Timestamp
	}{
		{"scheduled_at", p.GetScheduledAt()},
		{"started_at", p.GetStartedAt()},
		{"missed_until", p.GetMissedUntil()},
		{"certificate_not_after", p.GetCertificateNotAfter()},
	} {
		if at.time == nil {
			continue
		}
		if err := at.time.CheckValid(); err != nil {
			return violates("%s: %v", at.name, err)
		}
	}
	if p.GetScheduledAt() == nil {
		return violates("scheduled_at missing")
	}
	scheduled, until := p.GetScheduledAt().AsTime(), p.GetMissedUntil().AsTime()
	missed := p.GetStatus() == picketv1.Status_STATUS_UNKNOWN
	switch {
	case scheduled.Nanosecond()%int(time.Millisecond) != 0:
		return violates("scheduled_at is not in whole milliseconds")
	case scheduled.Before(received.Add(-MostLate)) || scheduled.After(received.Add(MostEarly)):
		return violates("scheduled_at %s, received %s", scheduled.Format(time.RFC3339Nano), received.UTC().Format(time.RFC3339Nano))
	case p.GetMissedUntil() != nil && (!missed || until.Before(scheduled) || until.After(received.Add(MostEarly))):
		return violates("missed_until %s", until.Format(time.RFC3339Nano))
	}
	return nil
}

// clip keeps what comes from outside from making an error long.
func clip(s string) string { return s[:min(len(s), maxName)] }
