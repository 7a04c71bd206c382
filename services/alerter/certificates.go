package alerter

import (
	"context"
	"sync"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/alerter/fold"
)

const certificatesEvery = 5 * time.Second

// place is where a certificate was seen.
type place struct{ check, location string }

// certificates are the ends of all certificates that the targets showed last, for the figures about them. They are not
// state of the fold: after a start they are there again with the next result of each check. It is safe for concurrent
// use.
type certificates struct {
	mu sync.Mutex
	// of is by server, so that what a changed or removed server had goes with it. The values are Unix seconds.
	of map[fold.ServerName]map[place]int64
}

// saw takes note of an event that was folded.
func (c *certificates) saw(payload any) {
	switch p := payload.(type) {
	case *picketv1.ProbeResult:
		c.result(p)
	case *picketv1.CatalogChange:
		// Its checks may look elsewhere now, or not at all.
		c.mu.Lock()
		delete(c.of, fold.ServerName{Org: p.GetServer().GetOrg(), Server: p.GetServer().GetName()})
		c.mu.Unlock()
	}
}

func (c *certificates) result(p *picketv1.ProbeResult) {
	server, at := fold.ServerName{Org: p.GetOrg(), Server: p.GetServer()}, place{p.GetCheckId(), p.GetLocation()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.GetCertificateNotAfter() != nil {
		if c.of == nil {
			c.of = map[fold.ServerName]map[place]int64{}
		}
		if c.of[server] == nil {
			c.of[server] = map[place]int64{}
		}
		c.of[server][at] = p.GetCertificateNotAfter().GetSeconds()
		return
	}
	if p.GetStatus() == picketv1.Status_STATUS_UNREACHABLE || p.GetConnectionReused() {
		return // nothing was shown this time
	}
	if delete(c.of[server], at); len(c.of[server]) == 0 {
		delete(c.of, server)
	}
}

// ends returns the soonest end, zero when no certificate is known, and how many end before each of some moments.
func (c *certificates) ends(before ...time.Time) (soonest int64, expiring []int) {
	expiring = make([]int, len(before))
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, server := range c.of {
		for _, end := range server {
			if soonest == 0 || end < soonest {
				soonest = end
			}
			for i, moment := range before {
				if end < moment.Unix() {
					expiring[i]++
				}
			}
		}
	}
	return soonest, expiring
}

// showCertificates keeps the figures about certificates up to date until ctx ends.
func (s *Service) showCertificates(ctx context.Context, c *certificates) {
	for {
		now := time.Now()
		soonest, expiring := c.ends(now.AddDate(0, 0, 7), now.AddDate(0, 0, 30))
		s.metrics.notAfter.Reset()
		if soonest != 0 {
			s.metrics.notAfter.WithLabelValues().Set(float64(soonest))
		}
		s.metrics.expiring.WithLabelValues("7d").Set(float64(expiring[0]))
		s.metrics.expiring.WithLabelValues("30d").Set(float64(expiring[1]))
		if !sleep(ctx, certificatesEvery) {
			return
		}
	}
}
