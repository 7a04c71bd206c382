package catalog

import (
	"cmp"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/proto"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// common is what both `defaults` and a server may say about the checks below.
type common struct {
	interval, timeout time.Duration
	locations         []string
	alerts            *picketv1.AlertRules
}

func (d *decoder) commonFields(c *common) fields {
	return fields{
		"interval":  d.duration(func(v time.Duration) { c.interval = v }),
		"timeout":   d.duration(func(v time.Duration) { c.timeout = v }),
		"locations": d.texts(&c.locations),
		"alerts":    d.alerts(&c.alerts),
	}
}

// within fills what c leaves open from what stands around it.
func (c common) within(outer common) common {
	c.interval = cmp.Or(c.interval, outer.interval)
	c.timeout = cmp.Or(c.timeout, outer.timeout)
	if c.locations == nil {
		c.locations = outer.locations
	}
	c.alerts = mergeAlerts(c.alerts, outer.alerts)
	return c
}

// mergeAlerts takes each rule from inner where it has one, else from outer.
func mergeAlerts(inner, outer *picketv1.AlertRules) *picketv1.AlertRules {
	if inner == nil && outer == nil {
		return nil
	}
	merged := &picketv1.AlertRules{}
	// Merge overwrites with what is set; 0 is not.
	if outer != nil {
		proto.Merge(merged, outer)
	}
	if inner != nil {
		proto.Merge(merged, inner)
	}
	return merged
}

func serverPath(i int) string { return "servers[" + strconv.Itoa(i) + "]" }

func (d *decoder) document(document *yaml.Node, defaults Defaults) *File {
	file := &File{}
	root := document
	if root.Kind == yaml.DocumentNode && len(root.Content) == 1 {
		root = root.Content[0]
	}
	outer := common{}
	org := ""
	var servers *yaml.Node
	known := d.commonFields(&outer)
	known["org"] = d.text(&org)
	d.mapping(root, "", fields{
		"settings": func(*yaml.Node, string) {},
		"defaults": func(n *yaml.Node, path string) { d.mapping(n, path, known) },
		// Read last: what stands in `defaults` holds wherever that stands.
		"servers": func(n *yaml.Node, _ string) { servers = n },
		"confirm_removal": d.number(1, math.MaxInt32, func(v int32) {
			file.ConfirmRemoval = int(v)
		}),
	})
	if servers == nil {
		return file
	}
	holders := map[Key]int{}
	d.sequence(servers, "servers", func(i int, n *yaml.Node, path string) {
		before := len(d.faults)
		server := d.server(n, path, outer, org)
		server.Complete(Defaults{Interval: defaults.Interval, MetricsInterval: defaults.MetricsInterval, Locations: defaults.Locations})
		d.addUnsaid(before, server.Validate(path))
		file.Servers = append(file.Servers, server)
		key := server.Key()
		if first, twice := holders[key]; twice && server.Name != "" {
			d.faults.add(joinPath(path, "name"), "server %s stands in line %d already", key, d.places[serverPath(first)].Line)
		} else {
			holders[key] = i
		}
	})
	return file
}

// addUnsaid adds the faults of validation, but for those about what could not even be read, which is a fault already;
// from is where the faults of the same server begin.
func (d *decoder) addUnsaid(from int, faults Faults) {
	said := d.faults[from:len(d.faults):len(d.faults)]
	for _, fault := range faults {
		if !slices.ContainsFunc(said, func(earlier Fault) bool { return strings.HasPrefix(earlier.Path, fault.Path) }) {
			d.faults = append(d.faults, fault)
		}
	}
}

func (d *decoder) server(n *yaml.Node, path string, outer common, org string) Server {
	server := Server{Source: SourceFile, Org: org}
	own := common{}
	var lifecycle, url string
	var checks, metrics *yaml.Node
	known := d.commonFields(&own)
	maps.Copy(known, fields{
		"name":         d.text(&server.Name),
		"org":          d.text(&server.Org),
		"display_name": d.text(&server.DisplayName),
		"lifecycle":    d.text(&lifecycle),
		"region":       d.text(&server.Region),
		"environment":  d.text(&server.Environment),
		"description":  d.text(&server.Description),
		"hostname":     d.text(&server.Hostname),
		"version":      d.text(&server.Version),
		"metadata":     d.object(&server.Metadata),
		"tags":         d.texts(&server.Tags),
		"groups":       d.texts(&server.Groups),
		"url":          d.text(&url),
		"checks":       func(n *yaml.Node, _ string) { checks = n },
		"metrics":      func(n *yaml.Node, _ string) { metrics = n },
	})
	d.mapping(n, path, known)
	server.Lifecycle = Lifecycle(lifecycle)
	own = own.within(outer)

	if checks != nil {
		d.sequence(checks, joinPath(path, "checks"), func(_ int, n *yaml.Node, path string) {
			server.Checks = append(server.Checks, d.check(n, path, own))
		})
	}
	if url != "" {
		// The shorthand comes last, so that the others keep their numbers; a check named health besides is one too many.
		at := joinPath(path, "checks["+strconv.Itoa(len(server.Checks))+"]")
		where := d.places[joinPath(path, "url")]
		d.places[at] = place{where.Position, path}
		where.path = joinPath(path, "url")
		d.places[joinPath(at, "url")], d.places[joinPath(at, "name")] = where, where
		d.inherit(path, at, "interval", "timeout", "locations", "alerts")
		check := Check{Name: HealthCheck, HTTP: &picketv1.HTTPSpec{Url: url}}
		check.take(own)
		server.Checks = append(server.Checks, check)
	}
	if metrics != nil {
		server.Checks = append(server.Checks, d.metricsOf(metrics, path, len(server.Checks), own))
	}
	return server
}

// inherit lets faults about what the check at path took from the server around it point there.
func (d *decoder) inherit(server, check string, keys ...string) {
	for _, key := range keys {
		from, known := d.places[joinPath(server, key)]
		if _, own := d.places[joinPath(check, key)]; known && !own {
			from.path = joinPath(server, key)
			d.places[joinPath(check, key)] = from
		}
	}
}

func (c *Check) take(own common) {
	c.Interval, c.Timeout, c.Locations, c.Alerts = own.interval, own.timeout, own.locations, own.alerts
}

func (d *decoder) check(n *yaml.Node, path string, outer common) Check {
	check := Check{}
	own := common{}
	enabled := true
	known := d.commonFields(&own)
	maps.Copy(known, d.checkFields(&check, &enabled))
	http, tcp := &picketv1.HTTPSpec{}, &picketv1.TCPSpec{}
	switch d.kind(n, path) {
	case KindHTTP:
		check.HTTP = http
		maps.Copy(known, d.httpFields(http))
	case KindTCP:
		check.TCP = tcp
		maps.Copy(known, d.tcpFields(tcp))
	case KindMetrics:
		check.Metrics = &picketv1.MetricsSpec{}
		maps.Copy(known, d.metricsFields(check.Metrics, path))
	default:
		// Already a fault: any kind's keys will do.
		maps.Copy(known, d.httpFields(http))
		maps.Copy(known, d.tcpFields(tcp))
	}
	if d.api {
		maps.Copy(known, d.apiFields(&check))
	}
	d.mapping(n, path, known)
	check.Disabled = !enabled
	check.take(own.within(outer))
	d.inherit(parentPath(parentPath(path)), path, "interval", "timeout", "locations", "alerts")
	return check
}

// checkFields are the keys of every check.
func (d *decoder) checkFields(check *Check, enabled *bool) fields {
	return fields{
		"name":     d.text(&check.Name),
		"kind":     func(*yaml.Node, string) {},
		"enabled":  d.boolean(enabled),
		"priority": d.number(-1000, 1000, func(v int32) { check.Priority = v }),
	}
}

// apiFields are the keys that a check has through the API alone: only there has a server a token.
func (d *decoder) apiFields(check *Check) fields {
	switch {
	case check.HTTP != nil:
		return fields{"server_token": d.boolean(&check.HTTP.ServerToken)}
	case check.Metrics != nil:
		return fields{"server_token": d.boolean(&check.Metrics.ServerToken)}
	default:
		return nil
	}
}

// kind looks for the kind of a check, since that says which other keys there may be. Without one it is http.
func (d *decoder) kind(n *yaml.Node, path string) string {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		d.fault(n, path, "must be a mapping of keys to values")
		return ""
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != "kind" {
			continue
		}
		value, ok := d.scalar(n.Content[i+1], joinPath(path, "kind"))
		if !ok {
			return ""
		}
		switch value.Value {
		case KindHTTP, KindTCP, KindMetrics:
			return value.Value
		}
		d.fault(value, joinPath(path, "kind"), "unknown kind %q: known are http, tcp, metrics", value.Value)
		return ""
	}
	return KindHTTP
}

func (d *decoder) alerts(to **picketv1.AlertRules) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		rules := &picketv1.AlertRules{}
		count := func(to *int32) func(*yaml.Node, string) {
			return d.number(1, maxAlertCount, func(v int32) { *to = v })
		}
		d.mapping(n, path, fields{
			"critical_after":    count(&rules.CriticalAfter),
			"unreachable_after": count(&rules.UnreachableAfter),
			"degraded_after":    count(&rules.DegradedAfter),
			"unreachable_for":   d.milliseconds(&rules.UnreachableForMs),
			"close_after":       count(&rules.CloseAfter),
			"quorum":            d.number(1, MaxList, func(v int32) { rules.Quorum = v }),
		})
		*to = rules
	}
}

func (d *decoder) milliseconds(to *int64) func(*yaml.Node, string) {
	return d.duration(func(v time.Duration) { *to = v.Milliseconds() })
}

func (d *decoder) httpFields(spec *picketv1.HTTPSpec) fields {
	return fields{
		"url":                  d.text(&spec.Url),
		"method":               d.text(&spec.Method),
		"headers":              d.headers(&spec.Headers),
		"body":                 d.text(&spec.Body),
		"expect_status":        d.texts(&spec.ExpectStatus),
		"expect_body":          d.text(&spec.ExpectBody),
		"expect_json":          d.jsonAssertions(&spec.ExpectJson),
		"expect_headers":       d.headerAssertions(&spec.ExpectHeaders),
		"max_latency":          d.milliseconds(&spec.MaxLatencyMs),
		"min_certificate_days": d.number(1, 3650, func(v int32) { spec.MinCertificateDays = v }),
		"follow_redirects":     d.boolean(&spec.FollowRedirects),
		"connection":           d.text(&spec.Connection),
		"tls":                  d.tls(&spec.Tls),
	}
}

func (d *decoder) tcpFields(spec *picketv1.TCPSpec) fields {
	return fields{
		"address":     d.text(&spec.Address),
		"send":        d.text(&spec.Send),
		"expect":      d.text(&spec.Expect),
		"max_latency": d.milliseconds(&spec.MaxLatencyMs),
		"use_tls":     d.boolean(&spec.UseTls),
		"tls":         d.tls(&spec.Tls),
	}
}

func (d *decoder) tls(to **picketv1.TLSOptions) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		o := &picketv1.TLSOptions{}
		d.mapping(n, path, fields{
			"insecure_skip_verify": d.boolean(&o.InsecureSkipVerify),
			"server_name":          d.text(&o.ServerName),
			"ca_file":              d.text(&o.CaFile),
			"cert_file":            d.text(&o.CertFile),
			"key_file":             d.text(&o.KeyFile),
		})
		*to = o
	}
}

// headers reads names and values; several values of one name are a list.
func (d *decoder) headers(to *[]*picketv1.Header) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		d.entries(n, path, func(name string, _, value *yaml.Node) {
			d.note(value, joinPath(path, name), "")
			var values []string
			d.texts(&values)(value, joinPath(path, name))
			for _, v := range values {
				*to = append(*to, &picketv1.Header{Name: name, Value: v})
			}
		})
	}
}

func (d *decoder) headerAssertions(to *[]*picketv1.HeaderAssertion) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		d.entries(n, path, func(name string, _, value *yaml.Node) {
			at := path + "[" + strconv.Itoa(len(*to)) + "]"
			d.places[at] = place{Position{value.Line, value.Column}, joinPath(path, name)}
			d.places[joinPath(at, "matches")] = d.places[at]
			assertion := &picketv1.HeaderAssertion{Name: name}
			d.text(&assertion.Matches)(value, joinPath(path, name))
			*to = append(*to, assertion)
		})
	}
}

func (d *decoder) jsonAssertions(to *[]*picketv1.JSONPathAssertion) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		d.sequence(n, path, func(_ int, n *yaml.Node, path string) {
			assertion := &picketv1.JSONPathAssertion{}
			d.mapping(n, path, fields{
				"path":   d.text(&assertion.Path),
				"equals": d.json(&assertion.Equals),
			})
			*to = append(*to, assertion)
		})
	}
}

// json reads any value and keeps it as JSON: `equals: ok` is the string, `equals: 5` the number.
func (d *decoder) json(to *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		var value any
		if err := n.Decode(&value); err != nil {
			d.fault(n, path, "cannot be read: %s", err)
			return
		}
		text, err := json.Marshal(value)
		if err != nil || len(text) > maxPayload {
			d.fault(n, path, "is no value that JSON knows")
			return
		}
		*to = string(text)
	}
}
