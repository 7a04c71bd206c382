package api

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/picketd/picket/internal/catalog"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// destinations are the places that the checks of a server present its token to: scheme, host and port, and whether the
// place has to prove that it is that host.
func destinations(server *catalog.Server) map[string]bool {
	places := map[string]bool{}
	for i := range server.Checks {
		check := &server.Checks[i]
		if check.HTTP.GetServerToken() {
			places[destination(check.HTTP.GetUrl(), check.HTTP.GetTls())] = true
		}
		if check.Metrics.GetServerToken() {
			places[destination(check.Metrics.GetUrl(), check.Metrics.GetTls())] = true
		}
	}
	return places
}

func destination(address string, tls *picketv1.TLSOptions) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	scheme, port := strings.ToLower(u.Scheme), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	place := scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
	if tls.GetInsecureSkipVerify() || tls.GetServerName() != "" {
		place += " as whoever says to be " + strings.ToLower(tls.GetServerName())
	}
	return place
}

// mayPresent refuses a change that would send the token that is kept to a place where it was not sent before: nobody is
// ever shown it, and to have it sent to oneself is to be shown it. Who sends the token with the change has it already.
func mayPresent(have, want *catalog.Server) error {
	if have.Credential == nil || want.Credential == nil {
		return nil
	}
	known := destinations(have)
	for place := range destinations(want) {
		if !known[place] {
			return problem(http.StatusUnprocessableEntity, "the token that is kept would be presented to "+place,
				field("body.api_token", "is needed, since the token would go where it did not go before; null ends it"))
		}
	}
	return nil
}
