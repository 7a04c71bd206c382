package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// ProbeFilter matches the results that have the given words; an empty word, and
// the zero status, match any.
func ProbeFilter(org string, status picketv1.Status, location, server, check string) string {
	word := "*"
	if status != picketv1.Status_STATUS_UNSPECIFIED {
		word = health.Word(status)
	}
	return join(filterToken(org), FamilyProbe, word, filterToken(location), filterToken(server), filterToken(check))
}

// AlertFilter matches the alert events of a server; an empty word matches any.
func AlertFilter(org, server string) string {
	return join(filterToken(org), FamilyAlert, "*", "*", filterToken(server))
}

func filterToken(word string) string {
	if word == "" || word == "*" {
		return "*"
	}
	return Token(word)
}

// Subscribe has handle called, one after the other, with what is published on
// the subjects from now on, until ctx ends; it returns nil then. It is for
// looking on: nothing is stored, nothing acknowledged, and who is too slow misses some.
func (c *Conn) Subscribe(ctx context.Context, subjects []string, handle func(*Msg)) error {
	messages := make(chan *nats.Msg, followBuffer)
	var subs []*nats.Subscription
	defer func() { c.unsubscribe(subs) }()
	for _, subject := range subjects {
		sub, err := c.nc.ChanSubscribe(subject, messages)
		if err != nil {
			return fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		subs = append(subs, sub)
	}
	for {
		select {
		case raw := <-messages:
			handle(&Msg{
				Subject: raw.Subject, Data: raw.Data, conn: c,
				ID: raw.Header.Get(headerMsgID), ContentType: raw.Header.Get(headerContentType),
			})
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *Conn) unsubscribe(subs []*nats.Subscription) {
	for _, sub := range subs {
		if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			c.log.Debug("subscription not ended", "subject", sub.Subject, "err", err)
		}
	}
}

// FamilyFilter matches everything of one family of an organization; an empty organization matches any.
func FamilyFilter(org, family string) string {
	return join(filterToken(org), Token(family), ">")
}
