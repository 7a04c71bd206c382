package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// maxLiveTickets bounds the unused tickets of one token.
const maxLiveTickets = 100

// ErrTooMany says that somebody has as many of something as there may be.
var ErrTooMany = errors.New("too many")

// CreateLiveTicket stores the hash of a ticket that opens one stream within ttl. The error matches [ErrTooMany].
func (s *Store) CreateLiveTicket(ctx context.Context, token string, hash [32]byte, ttl time.Duration) error {
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM live_tickets WHERE expires_at < clock_timestamp()`); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			INSERT INTO live_tickets (hash, token_id, expires_at) SELECT $1, $2, clock_timestamp() + $3::interval
			WHERE (SELECT count(*) FROM live_tickets WHERE token_id = $2) < $4`, hash[:], token, ttl, maxLiveTickets)
		if err == nil && tag.RowsAffected() == 0 {
			err = ErrTooMany
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("create live ticket: %w", err)
	}
	return nil
}

// UseLiveTicket takes a ticket and returns the id of its token; it is of no use any more then. The error matches
// [ErrNotFound] when there is none, or it was used or has run out.
func (s *Store) UseLiveTicket(ctx context.Context, hash [32]byte) (token string, err error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	err = s.pool.QueryRow(ctx, `WITH used AS (DELETE FROM live_tickets WHERE hash = $1 RETURNING token_id, expires_at)
		SELECT token_id FROM used WHERE expires_at > clock_timestamp()`, hash[:]).Scan(&token)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return "", fmt.Errorf("use live ticket: %w", err)
	}
	return token, nil
}

// StreamPlace is a place in a stream that may be gone: everything up to it was had.
type StreamPlace struct{ Epoch, Seq int64 }

// LiveResults returns the results of an organization behind one place of the event stream and before another, in their
// order. It is for what the stream itself does not remember any more.
func (s *Store) LiveResults(ctx context.Context, org string, after, before StreamPlace, limit int) ([]Result, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `
		SELECT r.check_id, r.location, r.scheduled_at, r.status, r.latency_us, coalesce(r.http_status, 0), r.reason, r.message,
		       r.started_at, r.instance, r.revision, r.missed, r.missed_until, r.on_demand, r.certificate_not_after,
		       r.connection_reused, r.details, r.stream_epoch, r.stream_seq, r.org, k.server, k.check_name, k.kind
		FROM server_health_checks r JOIN check_states k ON k.check_id = r.check_id AND k.location = r.location
		WHERE r.org = $1 AND (r.stream_epoch, r.stream_seq) > ($2, $3) AND (r.stream_epoch, r.stream_seq) < ($4, $5)
		  AND r.stream_epoch >= $2 AND r.scheduled_at > clock_timestamp() - interval '8 days'
		ORDER BY r.stream_epoch, r.stream_seq LIMIT $6`, org, after.Epoch, after.Seq, before.Epoch, before.Seq, limit)
	if err != nil {
		return nil, fmt.Errorf("read live results: %w", err)
	}
	results, err := pgx.CollectRows(rows, scanResult)
	if err != nil {
		return nil, fmt.Errorf("read live results: %w", err)
	}
	return results, nil
}

// LiveAlertEvents returns the transitions of an organization's alerts that were decided behind one place of the event
// stream, in their order.
func (s *Store) LiveAlertEvents(ctx context.Context, org string, after StreamPlace, limit int) ([]*picketv1.AlertEvent, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `
		SELECT e.event_id::text, e.alert_id::text, e.at, e.transition, e.state, e.kind, e.severity, e.reason, e.summary, e.actor, e.org,
		       a.server, a.check_name, a.location, a.fingerprint
		FROM alert_events e JOIN system_alerts a ON a.id = e.alert_id
		WHERE e.org = $1 AND (e.stream_epoch, e.stream_seq) > ($2, $3) ORDER BY e.stream_epoch, e.stream_seq, e.noted_at LIMIT $4`,
		org, after.Epoch, after.Seq, limit)
	if err != nil {
		return nil, fmt.Errorf("read live alert events: %w", err)
	}
	events, err := pgx.CollectRows(rows, scanLiveAlertEvent)
	if err != nil {
		return nil, fmt.Errorf("read live alert events: %w", err)
	}
	return events, nil
}

func scanLiveAlertEvent(row pgx.CollectableRow) (*picketv1.AlertEvent, error) {
	var (
		e  picketv1.AlertEvent
		at time.Time
	)
	err := row.Scan(&e.EventId, &e.AlertId, &at, &e.Transition, &e.State, &e.Kind, &e.Severity, &e.Reason, &e.Summary, &e.Actor, &e.Org,
		&e.Server, &e.Check, &e.Location, &e.Fingerprint)
	e.At = timestamppb.New(at)
	return &e, err
}
