package api

import (
	"context"
	"encoding/json"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// eventSlack is how far before the reader's place in the event stream transitions are told again: they are published a
// little after the event that decided them. A transition has an identity, so that to hear of one twice does no harm.
const eventSlack = 1000

func (r *reader) resultsFromDatabase(ctx context.Context, i int, after, before store.StreamPlace) error {
	if !slices.Contains(r.filter.families, bus.FamilyProbe) {
		return nil
	}
	for sent := 0; ; {
		rows, err := r.s.store.LiveResults(ctx, r.filter.org, after, before, backfillPage)
		if err != nil {
			return err
		}
		for k := range rows {
			row := &rows[k]
			after = store.StreamPlace{Epoch: row.StreamEpoch, Seq: row.StreamSeq}
			r.cursor[i] = place{row.StreamEpoch, uint64(row.StreamSeq)}
			subject := bus.Subject{
				Family: bus.FamilyProbe, Org: row.Org, Status: row.Status, Location: row.Location, Server: row.Server, Check: row.Check,
			}
			if !r.filter.matches(&subject) {
				continue
			}
			text, err := wire.AppendJSON(nil, resultMessage(row))
			if err != nil {
				continue // it came from the wire, and is in the history
			}
			if err := r.send(liveFrame{r.cursor.String(), bus.FamilyProbe, text}); err != nil {
				return err
			}
		}
		if sent += len(rows); len(rows) < backfillPage {
			return nil
		}
		if sent >= backfillRows {
			return r.gap(bus.StreamEvents, "too_much")
		}
	}
}

// resultMessage is a row as it came over the wire, but for what only its stream knew.
func resultMessage(row *store.Result) *picketv1.ProbeResult {
	p := &picketv1.ProbeResult{
		Status: row.Status, Server: row.Server, Check: row.Check, LatencyUs: row.Latency.Microseconds(), Reason: row.Reason,
		Message: row.Message, HttpStatus: int32(row.HTTPStatus), ScheduledAt: timestamppb.New(row.ScheduledAt), Location: row.Location,
		Org: row.Org, Kind: row.Kind, CheckId: row.CheckID.String(), Revision: int64(row.Revision), Instance: row.Instance,
		OnDemand: row.OnDemand, ConnectionReused: row.ConnectionReused,
	}
	if !row.StartedAt.IsZero() {
		p.StartedAt = timestamppb.New(row.StartedAt)
	}
	if !row.MissedUntil.IsZero() {
		p.MissedUntil = timestamppb.New(row.MissedUntil)
	}
	if !row.CertificateNotAfter.IsZero() {
		p.CertificateNotAfter = timestamppb.New(row.CertificateNotAfter)
	}
	var details struct {
		Counters map[string]float64 `json:"counters"`
	}
	if len(row.Details) > 0 && json.Unmarshal(row.Details, &details) == nil {
		p.Counters = details.Counters
	}
	return p
}

// alertsFromDatabase sends the transitions that were decided behind the reader's place in the event stream.
func (r *reader) alertsFromDatabase(ctx context.Context) error {
	if r.since.epoch == 0 {
		return nil // the reader never said where it was there: the gap is all there is to say
	}
	after := store.StreamPlace{Epoch: r.since.epoch, Seq: max(0, int64(r.since.seq)-eventSlack)}
	transitions, err := r.s.store.LiveAlertEvents(ctx, r.filter.org, after, backfillRows)
	if err != nil {
		return err
	}
	for _, transition := range transitions {
		subject := bus.Subject{Family: bus.FamilyAlert, Org: transition.GetOrg(), Server: transition.GetServer()}
		if !r.filter.matches(&subject) {
			continue
		}
		text, err := wire.AppendJSON(nil, transition)
		if err != nil {
			continue
		}
		if err := r.send(liveFrame{r.cursor.String(), bus.FamilyAlert, text}); err != nil {
			return err
		}
	}
	if len(transitions) == backfillRows {
		return r.gap(bus.StreamAlerts, "too_much")
	}
	return nil
}
