package api

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// What a server answers that was registered with an address, below it.
const (
	healthPath  = "/health"
	metricsPath = "/api/v1/metrics/current"
)

// Server is a watched thing.
type Server struct {
	ID                 string         `json:"id" format:"uuid"`
	Name               string         `json:"name" doc:"Slug, unique in the organization; it never changes." example:"checkout"`
	DisplayName        string         `json:"display_name"`
	Description        string         `json:"description"`
	Hostname           string         `json:"hostname"`
	APIURL             string         `json:"api_url"`
	Version            string         `json:"version"`
	Region             string         `json:"region"`
	Environment        string         `json:"environment"`
	Status             string         `json:"status" enum:"active,maintenance,inactive" doc:"Lifecycle: active is probed, maintenance is probed and opens no alert, inactive is not probed."`
	HealthStatus       string         `json:"health_status" enum:"healthy,degraded,critical,unreachable,unknown"`
	LastSeenAt         *time.Time     `json:"last_seen_at,omitempty" doc:"When it last answered anything."`
	LastHealthCheckAt  *time.Time     `json:"last_health_check_at,omitempty"`
	Tags               []string       `json:"tags" nullable:"false"`
	Groups             []string       `json:"groups" nullable:"false" doc:"Those that it was put into; those that select it are not among them."`
	Metadata           map[string]any `json:"metadata" nullable:"false"`
	Organization       string         `json:"organization"`
	ManagedBy          string         `json:"managed_by" enum:"env,file,api,self" doc:"Source that declares it; only servers of the source api can be changed here."`
	HasToken           bool           `json:"has_token" doc:"A token is presented to it."`
	PreviousTokenUntil *time.Time     `json:"previous_token_until,omitempty" doc:"How long the token before is still presented when the new one is refused."`
	Revision           int64          `json:"revision"`
	CreatedAt          time.Time      `json:"created_at"`
	UpdatedAt          time.Time      `json:"updated_at"`
}

// ServerDetail is a server with its checks.
type ServerDetail struct {
	Server
	Checks []Check `json:"checks" nullable:"false"`
}

func newServer(r store.ServerRecord) Server {
	metadata := map[string]any{}
	if err := json.Unmarshal(r.Metadata, &metadata); err != nil {
		metadata = map[string]any{} // the column holds an object
	}
	return Server{
		ID: r.ID, Name: r.Name, DisplayName: r.DisplayName, Description: r.Description, Hostname: r.Hostname,
		APIURL: r.APIURL, Version: r.Version, Region: r.Region, Environment: r.Environment, Status: string(r.Lifecycle),
		HealthStatus: r.HealthStatus, LastSeenAt: orNil(r.LastSeenAt), LastHealthCheckAt: orNil(r.LastHealthCheckAt),
		Tags: orEmpty(r.Tags), Groups: orEmpty(r.Groups), Metadata: metadata, Organization: r.Org, ManagedBy: string(r.Source),
		HasToken: r.HasToken, PreviousTokenUntil: orNil(r.PreviousTokenUntil), Revision: r.Revision,
		CreatedAt: r.CreatedAt, UpdatedAt: r.ChangedAt,
	}
}

// orEmpty is a list as JSON shows it: never null.
func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// newServerBody is what people say of a server that is new.
type newServerBody struct {
	Name        string         `json:"name" minLength:"1" maxLength:"255" doc:"Its slug is made of it; what is no slug is the display name." example:"Checkout EU"`
	Hostname    string         `json:"hostname,omitempty" maxLength:"255"`
	APIURL      string         `json:"api_url,omitempty" maxLength:"2048" doc:"Makes the checks health (GET api_url/health) and metrics (GET api_url/api/v1/metrics/current)." example:"https://checkout.example"`
	APIToken    string         `json:"api_token,omitempty" maxLength:"4096" doc:"Presented to the server as a bearer token; kept sealed and never shown."`
	Description string         `json:"description,omitempty" maxLength:"4096"`
	Version     string         `json:"version,omitempty" maxLength:"255"`
	Region      string         `json:"region,omitempty" maxLength:"255"`
	Environment string         `json:"environment,omitempty" maxLength:"255"`
	Status      string         `json:"status,omitempty" enum:"active,maintenance,inactive" doc:"active when left out."`
	Tags        []string       `json:"tags,omitempty" maxItems:"64"`
	Groups      []string       `json:"groups,omitempty" maxItems:"64" doc:"Names; groups that are not there are made."`
	Metadata    map[string]any `json:"metadata,omitempty"`
	DisplayName string         `json:"display_name,omitempty" maxLength:"255"`
	Checks      []Check        `json:"checks,omitempty" maxItems:"128" doc:"One of the name health or metrics takes the place of that of api_url."`
}

// declare is the server that the body describes, complete and valid.
func (s *Service) declare(org string, body *newServerBody) (*catalog.Server, error) {
	name := slug(body.Name)
	if name == "" {
		return nil, problem(http.StatusUnprocessableEntity, "validation failed", field("body.name", "holds no letter or digit to make a slug of"))
	}
	server := &catalog.Server{
		Org: org, Name: name, DisplayName: body.DisplayName, Source: catalog.SourceAPI,
		Lifecycle: catalog.Lifecycle(body.Status), Region: body.Region, Environment: body.Environment,
		Description: body.Description, Hostname: body.Hostname, Version: body.Version, APIURL: body.APIURL,
		Metadata: body.Metadata, Tags: body.Tags, Groups: body.Groups,
	}
	if server.DisplayName == "" && body.Name != name {
		server.DisplayName = body.Name
	}
	checks, err := readChecks(body.Checks)
	if err != nil {
		return nil, err
	}
	server.Checks = checks
	for _, derived := range derivedChecks(body.APIURL) {
		if !slices.ContainsFunc(checks, func(c catalog.Check) bool { return c.Name == derived.Name }) {
			server.Checks = append(server.Checks, derived)
		}
	}
	if body.APIToken != "" {
		if server.Credential, err = s.seal(server, "body.api_token", body.APIToken, time.Time{}); err != nil {
			return nil, err
		}
	}
	return server, s.complete(server)
}

// complete fills what is left open and refuses what is not valid.
func (s *Service) complete(server *catalog.Server) error {
	server.Complete(catalog.Defaults{
		Interval: s.config.HealthInterval, MetricsInterval: s.config.MetricsInterval, Locations: []string{s.kit.Location},
	})
	return server.Validate("").Err()
}

// seal makes the credential of a server; the token before it is presented besides until previousUntil.
func (s *Service) seal(server *catalog.Server, location, token string, previousUntil time.Time) (*catalog.Credential, error) {
	if s.keyring == nil {
		return nil, problem(http.StatusUnprocessableEntity, "Picket keeps tokens sealed and has no key: set PICKET_SECRET_KEY "+
			"for api, prober and collector", field(location, "cannot be kept without PICKET_SECRET_KEY"))
	}
	if fault := catalog.TokenFault(token); fault != "" {
		return nil, problem(http.StatusUnprocessableEntity, "validation failed", field(location, fault))
	}
	return s.keyring.SealToken(server.Key(), token, server.Credential, previousUntil), nil
}

// derivedChecks are those that a server has for its address alone.
func derivedChecks(apiURL string) []catalog.Check {
	if apiURL == "" {
		return nil
	}
	return []catalog.Check{
		{Name: catalog.HealthCheck, HTTP: &picketv1.HTTPSpec{Url: below(apiURL, healthPath), ServerToken: true}},
		{Name: catalog.MetricsCheck, Metrics: &picketv1.MetricsSpec{
			Url: below(apiURL, metricsPath), Format: catalog.MetricsJSON, ServerToken: true,
		}},
	}
}

// below is the address of a path below base. What is no address stays as it is, for validation to refuse.
func below(base, path string) string {
	u, err := url.Parse(base)
	if err != nil {
		return base
	}
	return u.JoinPath(path).String()
}

// moveChecks has checks that were made of the address before look at the new one.
func moveChecks(checks []catalog.Check, before, after string) []catalog.Check {
	moved := slices.Clone(checks)
	for _, old := range derivedChecks(before) {
		for i := range moved {
			c := &moved[i]
			switch {
			case c.Name != old.Name:
			case c.HTTP != nil && c.HTTP.Url == old.HTTP.GetUrl():
				c.HTTP = proto.CloneOf(c.HTTP)
				c.HTTP.Url = below(after, healthPath)
			case c.Metrics != nil && c.Metrics.Url == old.Metrics.GetUrl():
				c.Metrics = proto.CloneOf(c.Metrics)
				c.Metrics.Url = below(after, metricsPath)
			}
		}
	}
	return moved
}

// slug makes the name of a server of what people call it; empty when nothing of it is left.
func slug(name string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(name) {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '_':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	text := strings.TrimLeft(b.String(), "_-")
	return strings.TrimRight(text[:min(len(text), catalog.MaxSlug)], "_-")
}

// describeServer is a server for the record, without what is secret.
func describeServer(server *catalog.Server) map[string]any {
	checks := make([]Check, 0, len(server.Checks))
	for i := range server.Checks {
		if !server.Checks[i].Removed {
			checks = append(checks, newCheck(&server.Checks[i], store.Viewer))
		}
	}
	described := map[string]any{
		"name": server.Name, "display_name": server.DisplayName, "description": server.Description,
		"hostname": server.Hostname, "api_url": server.APIURL, "version": server.Version, "region": server.Region,
		"environment": server.Environment, "status": server.Lifecycle, "tags": orEmpty(server.Tags),
		"groups": orEmpty(server.Groups), "metadata": server.Metadata, "has_token": server.Credential != nil, "checks": checks,
	}
	if server.Credential != nil && server.Credential.Previous != "" {
		described["previous_token_until"] = server.Credential.PreviousUntil
	}
	return described
}

// revisionTag is the entity tag of a revision, and what If-Match names.
func revisionTag(revision int64) string { return strconv.Quote(strconv.FormatInt(revision, 10)) }

// matches says whether If-Match, when it was sent, names the revision: RFC 9110, 13.1.1.
func revisionMatches(ifMatch string, revision int64) bool {
	if ifMatch == "" {
		return true
	}
	for tag := range strings.SplitSeq(ifMatch, ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || tag == revisionTag(revision) {
			return true
		}
	}
	return false
}
