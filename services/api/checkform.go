package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// Check is how a server is probed, with the keys that checks have in picket.yaml. Which of them there are goes by the
// kind.
type Check struct {
	ID        string       `json:"id,omitempty" readOnly:"true"`
	Name      string       `json:"name" maxLength:"63" example:"health"`
	Kind      string       `json:"kind,omitempty" enum:"http,tcp,metrics,reported" doc:"http when left out."`
	Enabled   *bool        `json:"enabled,omitempty" doc:"true when left out; others are kept and never due."`
	Interval  string       `json:"interval,omitempty" example:"30s" doc:"From tick to tick."`
	Timeout   string       `json:"timeout,omitempty" example:"5s"`
	Locations []string     `json:"locations,omitempty" nullable:"false"`
	Priority  int32        `json:"priority,omitempty"`
	Alerts    *CheckAlerts `json:"alerts,omitempty" doc:"Defaults when left out."`

	URL                string              `json:"url,omitempty" doc:"http and metrics." example:"https://checkout.example/health"`
	Method             string              `json:"method,omitempty" doc:"http."`
	Headers            map[string][]string `json:"headers,omitempty" doc:"http and metrics. Only admins are shown the values."`
	Body               string              `json:"body,omitempty" doc:"http."`
	ExpectStatus       []string            `json:"expect_status,omitempty" nullable:"false" doc:"http." example:"[\"2xx\"]"`
	ExpectBody         string              `json:"expect_body,omitempty" doc:"http: RE2."`
	ExpectJSON         []CheckJSON         `json:"expect_json,omitempty" nullable:"false" doc:"http."`
	ExpectHeaders      map[string]string   `json:"expect_headers,omitempty" doc:"http: RE2 by name."`
	MaxLatency         string              `json:"max_latency,omitempty" doc:"http and tcp." example:"500ms"`
	MinCertificateDays int32               `json:"min_certificate_days,omitempty" doc:"http."`
	FollowRedirects    bool                `json:"follow_redirects,omitempty" doc:"http."`
	Connection         string              `json:"connection,omitempty" enum:"keep-alive,fresh" doc:"http."`
	ServerToken        bool                `json:"server_token,omitempty" doc:"http and metrics: present the token of the server."`
	TLS                *CheckTLS           `json:"tls,omitempty"`

	Address string `json:"address,omitempty" doc:"tcp." example:"db.example:5432"`
	Send    string `json:"send,omitempty" doc:"tcp."`
	Expect  string `json:"expect,omitempty" doc:"tcp: RE2."`
	UseTLS  bool   `json:"use_tls,omitempty" doc:"tcp."`

	Format  string               `json:"format,omitempty" enum:"json,prometheus" doc:"metrics: by the content type when left out."`
	Mapping string               `json:"mapping,omitempty" doc:"metrics: a built-in mapping." example:"node_exporter"`
	Rules   map[string]CheckRule `json:"rules,omitempty" doc:"metrics: figures by name."`
}

// CheckAlerts says when a check opens and closes an alert.
type CheckAlerts struct {
	CriticalAfter    int32  `json:"critical_after,omitempty"`
	UnreachableAfter int32  `json:"unreachable_after,omitempty"`
	DegradedAfter    int32  `json:"degraded_after,omitempty"`
	UnreachableFor   string `json:"unreachable_for,omitempty" example:"5m"`
	CloseAfter       int32  `json:"close_after,omitempty"`
	Quorum           int32  `json:"quorum,omitempty"`
}

// CheckJSON is an expectation of a JSON body.
type CheckJSON struct {
	Path   string `json:"path" doc:"RFC 9535." example:"$.database.status"`
	Equals any    `json:"equals,omitempty" doc:"The path must exist when left out."`
}

// CheckTLS says how TLS is spoken. Files are those of the machine that probes; only picket.yaml names them.
type CheckTLS struct {
	InsecureSkipVerify bool   `json:"insecure_skip_verify,omitempty"`
	ServerName         string `json:"server_name,omitempty"`
	CAFile             string `json:"ca_file,omitempty"`
	CertFile           string `json:"cert_file,omitempty"`
	KeyFile            string `json:"key_file,omitempty"`
}

// CheckRule makes one figure of series of a Prometheus exposition.
type CheckRule struct {
	Series    string  `json:"series"`
	Aggregate string  `json:"aggregate,omitempty" enum:"sum,max,min,avg,count"`
	DivideBy  string  `json:"divide_by,omitempty"`
	Rate      bool    `json:"rate,omitempty"`
	Scale     float64 `json:"scale,omitempty"`
	Offset    float64 `json:"offset,omitempty"`
}

// readChecks are checks as people write them, by the very rules of picket.yaml.
func readChecks(checks []Check) ([]catalog.Check, error) {
	if len(checks) == 0 {
		return nil, nil
	}
	for i := range checks {
		checks[i].ID = "" // ours to say; it is the name that counts
	}
	text, err := json.Marshal(checks)
	if err != nil {
		return nil, problem(http.StatusUnprocessableEntity, "validation failed", field("body.checks", "cannot be read"))
	}
	return catalog.ParseChecks(text)
}

// hidden stands for a value that is not shown.
const hidden = "***"

// newCheck is a check as people see it. The values of its headers are for admins: some are secrets.
func newCheck(c *catalog.Check, reader store.Role) Check {
	enabled := !c.Disabled
	shown := Check{
		ID: c.ID, Name: c.Name, Kind: c.Kind(), Enabled: &enabled,
		Interval: durationText(c.Interval), Timeout: durationText(c.Timeout), Locations: c.Locations, Priority: c.Priority,
	}
	if a := c.Alerts; a != nil {
		shown.Alerts = &CheckAlerts{
			CriticalAfter: a.CriticalAfter, UnreachableAfter: a.UnreachableAfter, DegradedAfter: a.DegradedAfter,
			UnreachableFor: millisecondsText(a.UnreachableForMs), CloseAfter: a.CloseAfter, Quorum: a.Quorum,
		}
	}
	switch {
	case c.HTTP != nil:
		shown.showHTTP(c.HTTP, reader)
	case c.TCP != nil:
		shown.Address, shown.Send, shown.Expect, shown.UseTLS = c.TCP.Address, c.TCP.Send, c.TCP.Expect, c.TCP.UseTls
		shown.MaxLatency, shown.TLS = millisecondsText(c.TCP.MaxLatencyMs), newTLS(c.TCP.Tls)
	case c.Metrics != nil:
		shown.showMetrics(c.Metrics, reader)
	}
	return shown
}

func (c *Check) showHTTP(spec *picketv1.HTTPSpec, reader store.Role) {
	c.URL, c.Method, c.Body, c.Headers = spec.Url, spec.Method, spec.Body, newHeaders(spec.Headers, reader)
	c.ExpectStatus, c.ExpectBody = spec.ExpectStatus, spec.ExpectBody
	for _, expected := range spec.ExpectJson {
		shown := CheckJSON{Path: expected.Path}
		if expected.Equals != "" {
			shown.Equals = json.RawMessage(expected.Equals)
		}
		c.ExpectJSON = append(c.ExpectJSON, shown)
	}
	for _, expected := range spec.ExpectHeaders {
		if c.ExpectHeaders == nil {
			c.ExpectHeaders = map[string]string{}
		}
		c.ExpectHeaders[expected.Name] = expected.Matches
	}
	c.MaxLatency, c.MinCertificateDays = millisecondsText(spec.MaxLatencyMs), spec.MinCertificateDays
	c.FollowRedirects, c.Connection, c.ServerToken, c.TLS = spec.FollowRedirects, spec.Connection, spec.ServerToken, newTLS(spec.Tls)
}

func (c *Check) showMetrics(spec *picketv1.MetricsSpec, reader store.Role) {
	c.URL, c.Format, c.Mapping, c.Headers = spec.Url, spec.Format, spec.Mapping, newHeaders(spec.Headers, reader)
	c.ServerToken, c.TLS = spec.ServerToken, newTLS(spec.Tls)
	for _, rule := range spec.Rules {
		if c.Rules == nil {
			c.Rules = map[string]CheckRule{}
		}
		c.Rules[rule.Name] = CheckRule{
			Series: rule.Series, Aggregate: rule.Aggregate, DivideBy: rule.DivideBy, Rate: rule.Rate,
			Scale: rule.Scale, Offset: rule.Offset,
		}
	}
}

func newHeaders(headers []*picketv1.Header, reader store.Role) map[string][]string {
	if len(headers) == 0 {
		return nil
	}
	shown := map[string][]string{}
	for _, header := range headers {
		value := header.Value
		if !reader.May(store.Admin) && !catalog.IsSecretRef(value) {
			value = hidden
		}
		shown[header.Name] = append(shown[header.Name], value)
	}
	return shown
}

func newTLS(o *picketv1.TLSOptions) *CheckTLS {
	if o == nil {
		return nil
	}
	return &CheckTLS{
		InsecureSkipVerify: o.InsecureSkipVerify, ServerName: o.ServerName, CAFile: o.CaFile, CertFile: o.CertFile, KeyFile: o.KeyFile,
	}
}

func millisecondsText(ms int64) string {
	if ms == 0 {
		return ""
	}
	return durationText(time.Duration(ms) * time.Millisecond)
}

// durationText is a duration as people write it: 5m, not 5m0s.
func durationText(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
