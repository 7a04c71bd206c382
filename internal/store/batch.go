package store

import (
	"context"
	"errors"
	"time"
)

// Refused is a row that the database will never take.
type Refused struct {
	// Row is its index in what was given to Write.
	Row int
	Err error
}

// Written says what became of a batch.
type Written struct {
	// Rows were inserted or took the place of a missed marker.
	Rows int
	// Duplicates were there already, in the database or earlier in the batch.
	Duplicates int
	// Samples went into system_metrics beside the rows.
	Samples int
	// Refused rows are in nobody's way but must not be forgotten.
	Refused []Refused
}

// retries bounds the attempts at one batch: conflicts, deadlocks and missing partitions are cured by another one.
const retries = 5

// batchWriter commits batches of any kind of row, whatever the database says about some of them. What an error means is
// decided here, for all facts alike.
type batchWriter[R any] struct {
	store *Store
	// tables are what a batch goes into, all partitioned by the same instant, at.
	tables []string
	at     func(row *R) time.Time
	// index is where the row stood in the caller's batch.
	index func(row *R) int
	// try is one transaction. conflicts says that some rows may be there.
	try func(ctx context.Context, batch []R, conflicts bool) (rows, samples int, err error)
}

func (w *batchWriter[R]) write(ctx context.Context, batch []R, conflicts bool, written *Written) error {
	for attempt := 1; ; attempt++ {
		rows, samples, err := w.try(ctx, batch, conflicts)
		if err == nil {
			written.Rows += rows
			written.Duplicates += len(batch) - rows
			written.Samples += samples
			return nil
		}
		class := Classify(err)
		switch {
		case errors.Is(err, ErrUnknownOutcome), class == Conflict:
			conflicts = true
		case class == NoPartition:
			if err := w.ensurePartitions(ctx, batch); err != nil {
				return err
			}
		case class == Data:
			return w.bisect(ctx, batch, conflicts, err, written)
		case class != Retry:
			return err
		}
		if attempt == retries {
			return err
		}
	}
}

// bisect finds the rows that the database refuses, each in a transaction of few others, and writes the rest.
func (w *batchWriter[R]) bisect(ctx context.Context, batch []R, conflicts bool, err error, written *Written) error {
	if len(batch) == 1 {
		written.Refused = append(written.Refused, Refused{Row: w.index(&batch[0]), Err: err})
		return nil
	}
	half := len(batch) / 2
	if err := w.write(ctx, batch[:half], conflicts, written); err != nil {
		return err
	}
	return w.write(ctx, batch[half:], conflicts, written)
}

// ensurePartitions makes the months of the rows, which may be past ones. What may be in a row is bounded by the
// contracts, and so is what is made here.
func (w *batchWriter[R]) ensurePartitions(ctx context.Context, batch []R) error {
	made := map[string]bool{}
	for i := range batch {
		for _, table := range w.tables {
			partition := partitionOf(table, w.at(&batch[i]))
			if made[partition.Name] {
				continue
			}
			made[partition.Name] = true
			if err := w.store.makePartition(ctx, partition); err != nil {
				return err
			}
		}
	}
	return nil
}
