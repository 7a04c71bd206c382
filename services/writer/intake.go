package writer

import (
	"context"
	"fmt"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/store"
)

// intake is the way of one stream into the database: messages of a durable that all writers share become rows of R.
// What is done about anything that can go wrong is the same for all of them.
type intake[R any] struct {
	reader
	// table is where the rows go, the word for it in metrics and for readiness.
	table, component string
	// decode reads a message; mine is false for messages that are none of this table's, which is no error.
	decode func(msg *bus.Msg, epoch int64) (row R, mine bool, err error)
	write  func(ctx context.Context, rows []R, redelivered bool) (store.Written, error)
	// looked is when a row's tick was due; zero when its age says nothing.
	looked func(row *R) time.Time
}

// run stores until ctx ends.
func (n *intake[R]) run(ctx context.Context) error {
	return n.bus.Consume(ctx, bus.ConsumeOptions{
		Stream: n.stream, Durable: n.durable, Log: n.log,
		MaxBatch: n.config.BatchRows, MaxWait: n.config.BatchWait,
		Handle: n.handleShown, Available: n.store.CheckSchema,
		OnHole: n.recordHole, OnBacklog: n.noteBacklog,
	})
}

// handleShown is handle, and shows whether it can: a writer that stores nothing is not ready, whatever the reason.
func (n *intake[R]) handleShown(ctx context.Context, batch []*bus.Msg) error {
	err := n.handle(ctx, batch)
	n.kit.Health.Set(n.component, err)
	return err
}

// handle stores a batch. It returns nil when everything in it is committed or safe as a dead letter.
func (n *intake[R]) handle(ctx context.Context, batch []*bus.Msg) error {
	ctx, cancel := finish(ctx)
	defer cancel()
	started := time.Now()
	life, err := n.streamLife(ctx, batch)
	if err != nil {
		return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
	}

	dead := deadLetters{reader: &n.reader}
	defer dead.log()
	rows := make([]R, 0, len(batch))
	messages := make([]*bus.Msg, 0, len(batch))
	redelivered := false
	for _, msg := range batch {
		row, mine, err := n.decode(msg, life.of(msg))
		switch {
		case err != nil:
			if err := dead.add(ctx, msg, reasonOf(err), err); err != nil {
				return err
			}
		case mine:
			rows = append(rows, row)
			messages = append(messages, msg)
			redelivered = redelivered || msg.Deliveries > 1
		}
	}

	written, err := n.write(ctx, rows, redelivered)
	if err != nil {
		if class := store.Classify(err); class != store.Unknown {
			return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
		}
		return fmt.Errorf("write %s: %w", n.table, err)
	}
	for _, refused := range written.Refused {
		if err := dead.add(ctx, messages[refused.Row], bus.ReasonRefused, refused.Err); err != nil {
			return err
		}
		messages[refused.Row] = nil
	}
	n.traceStored(ctx, messages, written.Rows)
	n.committed(rows, written, started, redelivered)
	n.position.saw(batch)
	return nil
}

func (n *intake[R]) committed(rows []R, written store.Written, started time.Time, redelivered bool) {
	if len(rows) == 0 {
		return
	}
	now := time.Now()
	n.rows.Add(int64(written.Rows))
	n.metrics.rows.WithLabelValues(n.table).Add(float64(written.Rows))
	n.metrics.rows.WithLabelValues("system_metrics").Add(float64(written.Samples))
	n.metrics.duplicates.WithLabelValues(n.table).Add(float64(written.Duplicates))
	n.metrics.batch.WithLabelValues(n.durable).Observe(now.Sub(started).Seconds())
	n.metrics.lastCommit.WithLabelValues(n.durable).Set(float64(now.UnixMilli()) / 1000)
	if redelivered {
		return // what waited for a restart says nothing about the way
	}
	latency := n.metrics.endToEnd.WithLabelValues(n.durable)
	for i := range rows {
		if looked := n.looked(&rows[i]); !looked.IsZero() {
			latency.Observe(now.Sub(looked).Seconds())
		}
	}
}

// deadLetters are those of one batch. They share a line in the log: a flood of bad messages must not be one of lines.
type deadLetters struct {
	reader *reader
	count  int
	first  *bus.Msg
	cause  error
}

func (d *deadLetters) add(ctx context.Context, msg *bus.Msg, reason string, cause error) error {
	if err := msg.DeadLetter(ctx, reason, cause); err != nil {
		return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
	}
	if d.count++; d.count == 1 {
		d.first, d.cause = msg, cause
	}
	d.reader.traceDead(ctx, msg, reason, cause)
	d.reader.refused.Add(1)
	d.reader.metrics.deadLetters.WithLabelValues(d.reader.durable, reason).Inc()
	return nil
}

func (d *deadLetters) log() {
	if d.count > 0 {
		d.reader.log.Warn("messages became dead letters", "stream", d.reader.stream, "count", d.count, "first_subject", d.first.Subject,
			"first_sequence", d.first.Sequence, "err", d.cause)
	}
}

// finish lets a batch in hand outlast the service's own context for a moment, so that a stop costs no redelivery.
func finish(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(finishGrace, cancel)
		context.AfterFunc(longer, func() { timer.Stop() })
	})
	return longer, func() { stop(); cancel() }
}
