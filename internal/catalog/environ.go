package catalog

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// healthURLSuffix ends the name of every variable that declares a server.
const healthURLSuffix = "_HEALTH_URL"

// FromEnviron reads the servers that environ (as os.Environ gives it) declares: every variable <NAME>_HEALTH_URL that
// is not empty is a server with one HTTP check. Its name is <NAME> in lower case with dashes for underscores; `/health`
// is appended to a URL without a path. The interval of d is HEALTH_CHECK_INTERVAL; 0 is 60 s. The error is Faults, each with the
// variable as its path; the servers are sorted by name.
func FromEnviron(environ []string, d Defaults) ([]Server, error) {
	interval := cmp.Or(d.Interval, DefaultEnvInterval)
	var faults Faults
	if message := durationFault(interval, MinEnvInterval, MaxInterval); message != "" {
		faults.add("HEALTH_CHECK_INTERVAL", "%s", message)
		return nil, faults
	}
	sorted := slices.Clone(environ)
	slices.Sort(sorted)
	var servers []Server
	variables := map[string]string{}
	for _, entry := range sorted {
		variable, raw, _ := strings.Cut(entry, "=")
		prefix, found := strings.CutSuffix(variable, healthURLSuffix)
		if !found || prefix == "" || raw == "" {
			continue
		}
		name := strings.ReplaceAll(strings.ToLower(prefix), "_", "-")
		if other, taken := variables[name]; taken {
			if other != variable {
				faults.add(variable, "names the server %q, as %s does", name, other)
			}
			continue
		}
		variables[name] = variable
		server := Server{
			Name: name, Source: SourceEnv,
			Checks: []Check{{
				Name: HealthCheck, Interval: interval, Timeout: TimeoutFor(interval, EnvTimeout),
				HTTP: &picketv1.HTTPSpec{Url: withHealthPath(raw)},
			}},
		}
		server.Complete(Defaults{Locations: d.Locations})
		for _, fault := range server.Validate("") {
			key := fault.Path[strings.LastIndexByte(fault.Path, '.')+1:]
			if key == "name" {
				fault.Message = fmt.Sprintf("names no server: %s", fault.Message)
			}
			faults.add(variable, "%s", fault.Message)
		}
		servers = append(servers, server)
	}
	if err := faults.Err(); err != nil {
		return nil, err
	}
	slices.SortFunc(servers, func(a, b Server) int { return strings.Compare(a.Name, b.Name) })
	return servers, nil
}

// withHealthPath appends /health to a URL whose path is empty or /. What is no URL stays as it is, for validation to
// refuse.
func withHealthPath(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Path != "" && u.Path != "/" {
		return raw
	}
	u.Path = "/health"
	return u.String()
}
