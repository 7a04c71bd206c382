package bus

import (
	"errors"
	"fmt"
	"strings"

	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// root is the first token of every subject of Picket.
const root = "picket"

// PlatformServer stands for the server in subjects and rows that concern none.
const PlatformServer = "_platform"

// NoOrg stands for the organization in subjects of messages whose organization could not be read.
const NoOrg = "_"

// ClockSubject carries one ClockTick a second.
const ClockSubject = root + ".clock.tick"

// The families of subjects: the third token, after the organization, except for
// those that belong to no organization, where it is the second.
const (
	FamilyProbe   = "probe"
	FamilyCatalog = "catalog"
	FamilyCommand = "command"
	FamilyMetric  = "metric"
	FamilyAlert   = "alert"
	FamilyExport  = "export"
	FamilyDead    = "dead"
	FamilyClock   = "clock"
	FamilyWork    = "work"
	FamilyWorker  = "worker"
	FamilyRequest = "request"
)

// ErrSubject is wrapped by every error of ParseSubject.
var ErrSubject = errors.New("not a subject of picket")

// maxToken bounds one token; NATS advises at most 256 characters a subject.
const maxToken = 63

// Subject is a parsed subject. Only the fields that its family has are set.
type Subject struct {
	Family string
	Org    string
	// Status is set for the family probe.
	Status   picketv1.Status
	Location string
	Server   string
	Check    string
	// Verb is what happened or is wanted: the change, transition, phase or verb, the kind of work, the service of a worker
	// or of who is asked; of a dead letter, that it was replayed.
	Verb     string
	Severity string
	// ID is the last token of commands and exports, the instance of workers.
	ID       string
	Stream   string
	Consumer string
}

// ProbeSubject is where the result of a tick is published.
func ProbeSubject(org string, status picketv1.Status, location, server, check string) string {
	return join(Token(org), FamilyProbe, health.Word(status), Token(location), Token(server), Token(check))
}

// CatalogSubject is where a change of a server is published.
func CatalogSubject(org, change, server string) string {
	return join(Token(org), FamilyCatalog, Token(change), Token(server))
}

// AlertSubject is where a transition of an alert is published; an empty server is PlatformServer.
func AlertSubject(org, transition, severity, server string) string {
	if server == "" {
		server = PlatformServer
	}
	return join(Token(org), FamilyAlert, Token(transition), Token(severity), Token(server))
}

// DeadSubject is where a message that stream's consumer could not process is published; an empty org is NoOrg.
func DeadSubject(org, stream, consumer string) string {
	if org == "" {
		org = NoOrg
	}
	return join(Token(org), FamilyDead, Token(stream), Token(consumer))
}

// WorkerSubject is where a process sends its heartbeat.
func WorkerSubject(service, location, instance string) string {
	return join(FamilyWorker, Token(service), Token(location), Token(instance))
}

// MetricSubject is where the figures of one tick of a server are published; an empty server is PlatformServer.
func MetricSubject(org, location, server string) string {
	if server == "" {
		server = PlatformServer
	}
	return join(Token(org), FamilyMetric, Token(location), Token(server))
}

// CommandSubject is where what a person wants done is published.
func CommandSubject(org, verb, id string) string {
	return join(Token(org), FamilyCommand, Token(verb), Token(id))
}

// ExportSubject is where a step in the life of an export is published.
func ExportSubject(org, phase, id string) string {
	return join(Token(org), FamilyExport, Token(phase), Token(id))
}

// WorkSubject is the work queue of a kind of work.
func WorkSubject(kind string) string { return join(FamilyWork, Token(kind)) }

// RequestSubject is where the replicas of a ticker service at a location take requests to run a check now; one answers.
func RequestSubject(service, location string) string {
	return join(FamilyRequest, Token(service), Token(location))
}

// Token makes s safe as one token: lower case, every character outside
// [a-z0-9_-] a dash, 63 characters at most, a lone dash when s is empty. Slugs
// come through unchanged; instance and stream names are what needs it.
func Token(s string) string {
	if safeToken(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if b.Len() == maxToken {
			break
		}
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '-', r == '_':
			b.WriteRune(r)
		case 'A' <= r && r <= 'Z':
			b.WriteRune(r + 'a' - 'A')
		default:
			b.WriteByte('-')
		}
	}
	if b.Len() == 0 {
		return "-"
	}
	return b.String()
}

func safeToken(s string) bool {
	if s == "" || len(s) > maxToken {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// ParseSubject takes a subject apart. Every error wraps ErrSubject.
func ParseSubject(subject string) (Subject, error) {
	tokens := strings.Split(subject, ".")
	if tokens[0] != root || len(tokens) < 3 {
		return Subject{}, fmt.Errorf("%w: %q", ErrSubject, subject)
	}
	for _, token := range tokens {
		if !safeToken(token) {
			return Subject{}, fmt.Errorf("%w: %q has the token %q", ErrSubject, subject, token)
		}
	}
	if s, ok := parseShared(tokens[1:]); ok {
		return s, nil
	}
	if s, ok := parseOfOrg(tokens[1:]); ok {
		return s, nil
	}
	return Subject{}, fmt.Errorf("%w: %q", ErrSubject, subject)
}

// parseShared parses the families that belong to no organization.
func parseShared(t []string) (Subject, bool) {
	switch {
	case t[0] == FamilyClock && len(t) == 2 && t[1] == "tick":
		return Subject{Family: FamilyClock}, true
	case t[0] == FamilyWork && len(t) == 2:
		return Subject{Family: FamilyWork, Verb: t[1]}, true
	case t[0] == FamilyRequest && len(t) == 3:
		return Subject{Family: FamilyRequest, Verb: t[1], Location: t[2]}, true
	case t[0] == FamilyWorker && len(t) == 4:
		return Subject{Family: FamilyWorker, Verb: t[1], Location: t[2], ID: t[3]}, true
	default:
		return Subject{}, false
	}
}

func parseOfOrg(t []string) (Subject, bool) {
	s := Subject{Org: t[0], Family: t[1]}
	if reservedOrg(s.Org) && (s.Org != NoOrg || s.Family != FamilyDead) {
		return Subject{}, false
	}
	rest := t[2:]
	switch s.Family {
	case FamilyProbe:
		if len(rest) != 4 {
			return Subject{}, false
		}
		status, known := health.ParseStatus(rest[0])
		s.Status, s.Location, s.Server, s.Check = status, rest[1], rest[2], rest[3]
		return s, known
	case FamilyMetric:
		if len(rest) != 2 {
			return Subject{}, false
		}
		s.Location, s.Server = rest[0], rest[1]
		return s, true
	case FamilyAlert:
		if len(rest) != 3 {
			return Subject{}, false
		}
		s.Verb, s.Severity, s.Server = rest[0], rest[1], rest[2]
		return s, true
	}
	if len(rest) == 3 && s.Family == FamilyDead && rest[2] == verbReplayed {
		s.Verb, rest = verbReplayed, rest[:2]
	}
	if len(rest) != 2 {
		return Subject{}, false
	}
	switch s.Family {
	case FamilyCatalog:
		s.Verb, s.Server = rest[0], rest[1]
	case FamilyCommand, FamilyExport:
		s.Verb, s.ID = rest[0], rest[1]
	case FamilyDead:
		s.Stream, s.Consumer = rest[0], rest[1]
	default:
		return Subject{}, false
	}
	return s, true
}

// reservedOrg reports the second tokens that are no organization.
func reservedOrg(org string) bool {
	switch org {
	case NoOrg, FamilyWork, FamilyWorker, FamilyRequest, FamilyDead, FamilyClock:
		return true
	default:
		return false
	}
}

func join(tokens ...string) string {
	return root + "." + strings.Join(tokens, ".")
}
