package catalog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Bounds of one server. They keep a CatalogChange below the megabyte that NATS carries, also as JSON, where one byte of
// text can take six.
const (
	MaxSlug        = 63
	MaxText        = 255
	MaxChecks      = 128
	MaxList        = 64
	MaxServerBytes = 128 << 10
	MaxProse       = 4 << 10
	MaxMetadata    = 16 << 10
	maxAlertCount  = 10_000
)

// slugFault says what is wrong with a slug; empty: nothing. Slugs are tokens of subjects and keys.
func slugFault(s string) string {
	const rule = "must be 1 to 63 of a-z, 0-9, - and _, and begin and end with a letter or digit"
	if s == "" {
		return "is missing"
	}
	if len(s) > MaxSlug {
		return fmt.Sprintf("%.64q %s", s, rule)
	}
	for i := range len(s) {
		c := s[i]
		alnum := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		inner := i > 0 && i < len(s)-1
		if !alnum && (!inner || c != '-' && c != '_') {
			return fmt.Sprintf("%.64q %s", s, rule)
		}
	}
	return ""
}

// orgFault says what is wrong with an organization's slug; empty: nothing. The reserved names are second tokens of
// subjects that belong to no organization.
func orgFault(s string) string {
	if slices.Contains([]string{"_", "work", "worker", "request", "dead", "clock"}, s) {
		return fmt.Sprintf("organization %q is reserved", s)
	}
	return slugFault(s)
}

// serverNameFault says what is wrong with a server's name; empty: nothing.
func serverNameFault(s string) string {
	if s == "_platform" {
		return `name "_platform" is reserved`
	}
	return slugFault(s)
}

// textFault says what is wrong with one line of text for people; empty: nothing.
func textFault(s string, required bool) string {
	switch {
	case s == "" && required:
		return "must not be empty"
	case len(s) > MaxText:
		return fmt.Sprintf("is longer than %d bytes", MaxText)
	case !utf8.ValidString(s):
		return "is not valid UTF-8"
	case strings.ContainsFunc(s, unicode.IsControl):
		return "holds a control character"
	}
	return ""
}

// GroupNameFault says what is wrong with the name of a group that people make; empty: nothing.
func GroupNameFault(name string) string {
	if _, err := uuid.Parse(name); err == nil {
		return "has the form of an id"
	}
	return textFault(name, true)
}

// foreignFaults are what a check that came through the API may not say: whoever may edit servers of one organization is
// not who runs the machines that probers and collectors stand on, so their variables and files are not theirs to send.
func foreignFaults(f *Faults, path string, c *Check) {
	headers, tls := c.HTTP.GetHeaders(), c.HTTP.GetTls()
	if c.Metrics != nil {
		headers, tls = c.Metrics.GetHeaders(), c.Metrics.GetTls()
	}
	if c.TCP != nil {
		tls = c.TCP.GetTls()
	}
	for _, header := range headers {
		if IsSecretRef(header.GetValue()) {
			f.add(joinPath(path, "headers."+header.GetName()), "only the file refers to secrets: use server_token with the token of the server")
		}
	}
	if tls.GetCaFile() != "" || tls.GetCertFile() != "" || tls.GetKeyFile() != "" {
		f.add(joinPath(path, "tls"), "only the file names files of the machine")
	}
}

// proseFault says what is wrong with text of several lines; empty: nothing.
func proseFault(s string) string {
	switch {
	case len(s) > MaxProse:
		return fmt.Sprintf("is longer than %d bytes", MaxProse)
	case !utf8.ValidString(s):
		return "is not valid UTF-8"
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }):
		return "holds a control character"
	}
	return ""
}

// metadataFault says what is wrong with metadata; empty: nothing.
func metadataFault(metadata map[string]any) string {
	if len(metadata) == 0 {
		return ""
	}
	text, err := json.Marshal(metadata)
	switch {
	case err != nil:
		return "holds what JSON does not know"
	case len(text) > MaxMetadata:
		return fmt.Sprintf("takes %d bytes, more than %d", len(text), MaxMetadata)
	case bytes.Contains(text, []byte(`\u0000`)):
		return "holds a NUL character" // which no jsonb can
	}
	return ""
}

// Validate returns all faults of a completed server and of its checks, with paths below the given one. Names that
// other servers hold are not its matter.
func (s *Server) Validate(path string) Faults {
	var f Faults
	say := func(key, message string) {
		if message != "" {
			f.add(joinPath(path, key), "%s", message)
		}
	}
	say("name", serverNameFault(s.Name))
	say("org", orgFault(s.Org))
	say("display_name", textFault(s.DisplayName, false))
	say("region", textFault(s.Region, false))
	say("environment", textFault(s.Environment, false))
	say("hostname", textFault(s.Hostname, false))
	say("version", textFault(s.Version, false))
	say("description", proseFault(s.Description))
	if s.APIURL != "" {
		say("api_url", urlFault(s.APIURL))
	}
	say("metadata", metadataFault(s.Metadata))
	switch s.Lifecycle {
	case Active, Maintenance, Inactive:
	default:
		say("lifecycle", fmt.Sprintf("%q is none of active, maintenance, inactive", s.Lifecycle))
	}
	validateList(&f, joinPath(path, "tags"), s.Tags, func(tag string) string { return textFault(tag, true) })
	groupFault := slugFault
	if s.Source == SourceAPI {
		groupFault = GroupNameFault
	}
	validateList(&f, joinPath(path, "groups"), s.Groups, groupFault)

	if len(s.Checks) > MaxChecks {
		say("checks", fmt.Sprintf("has %d checks, more than %d", len(s.Checks), MaxChecks))
		return f
	}
	seen := map[string]bool{}
	for i := range s.Checks {
		c := &s.Checks[i]
		at := fmt.Sprintf("%s[%d]", joinPath(path, "checks"), i)
		if c.Name != "" && seen[c.Name] {
			f.add(joinPath(at, "name"), "server %s has more than one check named %q", s.Name, c.Name)
		}
		seen[c.Name] = true
		f = append(f, s.validateCheck(c, at)...)
	}
	if !seen[HealthCheck] {
		say("", "has no check named health: give the server a url, or a check of that name")
	}
	if len(f) == 0 {
		if size := proto.Size(s.Proto()); size > MaxServerBytes {
			say("", fmt.Sprintf("takes %d bytes, more than %d", size, MaxServerBytes))
		}
	}
	return f
}

func (s *Server) validateCheck(c *Check, path string) Faults {
	var f Faults
	if message := slugFault(c.Name); message != "" {
		f.add(joinPath(path, "name"), "%s", message)
	}
	floor := MinInterval
	if s.Source == SourceEnv {
		floor = MinEnvInterval
	}
	intervalGood := true
	if message := durationFault(c.Interval, floor, MaxInterval); message != "" {
		f.add(joinPath(path, "interval"), "%s", message)
		intervalGood = false
	}
	if message := durationFault(c.Timeout, time.Millisecond, MaxTimeout); message != "" {
		f.add(joinPath(path, "timeout"), "%s", message)
	} else if intervalGood && c.Timeout >= c.Interval {
		f.add(joinPath(path, "timeout"), "timeout %s must be shorter than the interval %s",
			readable(c.Timeout), readable(c.Interval))
	}
	if c.Priority < -1000 || c.Priority > 1000 {
		f.add(joinPath(path, "priority"), "%d is not between -1000 and 1000", c.Priority)
	}
	if len(c.Locations) == 0 {
		f.add(joinPath(path, "locations"), "must name at least one location")
	}
	validateList(&f, joinPath(path, "locations"), c.Locations, slugFault)
	validateAlerts(&f, joinPath(path, "alerts"), c.Alerts, len(c.Locations))
	if s.Source == SourceAPI {
		foreignFaults(&f, path, c)
	}
	switch {
	case c.kinds() > 1:
		f.add(path, "is of more than one kind")
	case c.Name == HealthCheck && c.Metrics != nil:
		f.add(path, "the check named health says whether the server is up; give figures another name, such as metrics")
	case c.Reported:
		if s.Source != SourceSelf {
			f.add(path, "only Picket itself has checks that no prober runs")
		}
	case c.HTTP != nil:
		validateHTTP(&f, path, c.HTTP)
	case c.TCP != nil:
		validateTCP(&f, path, c.TCP)
	case c.Metrics != nil:
		validateMetrics(&f, path, c.Metrics)
	default:
		f.add(path, "says nothing about what to probe")
	}
	return f
}

func validateAlerts(f *Faults, path string, a *picketv1.AlertRules, locations int) {
	if a == nil {
		return
	}
	for _, count := range []struct {
		key   string
		value int32
	}{
		{"critical_after", a.CriticalAfter},
		{"unreachable_after", a.UnreachableAfter},
		{"degraded_after", a.DegradedAfter},
		{"close_after", a.CloseAfter},
	} {
		if count.value < 0 || count.value > maxAlertCount {
			f.add(joinPath(path, count.key), "%d is not between 1 and %d", count.value, maxAlertCount)
		}
	}
	if a.UnreachableForMs < 0 || a.UnreachableForMs > MaxInterval.Milliseconds() {
		f.add(joinPath(path, "unreachable_for"), "must be between 1ms and %s", readable(MaxInterval))
	}
	if a.Quorum < 0 || int(a.Quorum) > locations {
		f.add(joinPath(path, "quorum"), "quorum %d is not between 1 and the number of locations, %d", a.Quorum, locations)
	}
}

func validateList(f *Faults, path string, list []string, fault func(string) string) {
	if len(list) > MaxList {
		f.add(path, "has %d entries, more than %d", len(list), MaxList)
		return
	}
	for _, entry := range list {
		if message := fault(entry); message != "" {
			f.add(path, "entry %s", quoted(entry, message))
		}
	}
}

// quoted puts the entry before a message that does not name it itself.
func quoted(entry, message string) string {
	if strings.HasPrefix(message, `"`) {
		return message
	}
	return fmt.Sprintf("%.64q %s", entry, message)
}

func durationFault(d, low, high time.Duration) string {
	switch {
	case d%time.Millisecond != 0:
		return fmt.Sprintf("%s is not a whole number of milliseconds", d)
	case d < low:
		return fmt.Sprintf("%s is shorter than %s", readable(d), readable(low))
	case d > high:
		return fmt.Sprintf("%s is longer than %s", readable(d), readable(high))
	}
	return ""
}

// readable is a duration as people write it: 5m, not 5m0s.
func readable(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func joinPath(path, key string) string {
	switch {
	case path == "":
		return key
	case key == "":
		return path
	default:
		return path + "." + key
	}
}
