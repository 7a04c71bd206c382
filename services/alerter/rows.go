package alerter

import (
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/alerter/fold"
)

// rows are what transitions leave in the database: each alert as it is after the last of its own, in that order, and all that
// happened.
func rows(transitions []fold.Transition) ([]store.Alert, []store.AlertEvent, error) {
	if len(transitions) == 0 {
		return nil, nil, nil
	}
	alerts := make([]store.Alert, 0, len(transitions))
	events := make([]store.AlertEvent, len(transitions))
	written := make(map[uuid.UUID]bool, len(transitions))
	for i := len(transitions) - 1; i >= 0; i-- {
		t := &transitions[i]
		evidence, err := evidenceJSON(t.Evidence)
		if err != nil {
			return nil, nil, err
		}
		events[i] = store.AlertEvent{
			EventID: t.EventID, AlertID: t.Alert.ID, Org: t.Alert.Org, At: t.At, StreamEpoch: t.Epoch, StreamSeq: int64(t.Sequence),
			Transition: t.Name, State: t.Alert.State, Kind: t.Alert.Kind, Severity: t.Alert.Severity, Reason: t.Alert.Reason,
			Summary: t.Summary, Evidence: evidence, Actor: t.Actor, Message: t.Event(),
		}
		if !written[t.Alert.ID] {
			written[t.Alert.ID] = true
			alerts = append(alerts, alertRow(&t.Alert, evidence))
		}
	}
	slices.Reverse(alerts)
	return alerts, events, nil
}

func alertRow(a *fold.Alert, evidence []byte) store.Alert {
	details := slices.Concat([]byte(`{"evidence":`), evidence, []byte(`}`))
	return store.Alert{
		ID: a.ID, Org: a.Org, Fingerprint: a.Fingerprint, Kind: a.Kind, Severity: a.Severity, State: a.State, Server: a.Server,
		CheckName: a.Check, CheckID: a.CheckID, Location: a.Location, Summary: a.Summary, Reason: a.Reason, Since: a.Since,
		PendingAt: a.PendingAt, OpenedAt: a.OpenedAt, AcknowledgedAt: a.AckedAt, ClosedAt: a.ClosedAt, TriggerCount: a.Triggers,
		AcknowledgedBy: a.AckedBy, Details: details,
	}
}

// alertOf is alertRow the other way round.
func alertOf(a store.Alert) fold.Alert {
	return fold.Alert{
		ID: a.ID, Org: a.Org, Fingerprint: a.Fingerprint, Kind: a.Kind, Severity: a.Severity, State: a.State, Server: a.Server,
		Check: a.CheckName, CheckID: a.CheckID, Location: a.Location, Summary: a.Summary, Reason: a.Reason, Since: a.Since,
		PendingAt: a.PendingAt, OpenedAt: a.OpenedAt, AckedAt: a.AcknowledgedAt, ClosedAt: a.ClosedAt, Triggers: a.TriggerCount,
		AckedBy: a.AcknowledgedBy,
	}
}

// evidenceJSON writes results as the wire does, so that rows and messages read alike.
func evidenceJSON(evidence []*picketv1.Evidence) ([]byte, error) {
	b := []byte{'['}
	for i, e := range evidence {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = wire.AppendJSON(b, e); err != nil {
			return nil, fmt.Errorf("encode evidence: %w", err)
		}
	}
	return append(b, ']'), nil
}

func gapRow(g fold.Gap) store.StreamGap {
	// Before the first event there is sequence 0, which is none.
	return store.StreamGap{
		Stream: bus.StreamEvents, Consumer: consumer, StreamEpoch: g.Epoch, FromSeq: int64(g.FromSeq), ToSeq: int64(g.ToSeq),
		From: g.FromTime, To: g.ToTime, Reason: g.Reason,
	}
}

func chunkRows(chunks []fold.Chunk) []store.SnapshotChunk {
	rows := make([]store.SnapshotChunk, len(chunks))
	for i, c := range chunks {
		rows[i] = store.SnapshotChunk{ID: int32(c.ID), Data: c.Data}
	}
	return rows
}
