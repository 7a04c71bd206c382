package ticker

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// watchCatalog follows the checks of this location until ctx ends, and closes
// listed when it knows all of them.
func (k *Ticker) watchCatalog(ctx context.Context, listed chan<- struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	apply := func(batch []bus.Entry, complete bool) {
		k.apply(batch, complete)
		if complete && listed != nil {
			close(listed)
			listed = nil
		}
	}
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		bucket, err := k.conn.CatalogBucket(ctx)
		if err == nil {
			err = bucket.Watch(ctx, "*."+bus.Token(k.kit.Location)+".*", apply)
		}
		if err != nil && ctx.Err() == nil && k.conn.Connected() {
			k.log.Warn("catalog not watched", "err", err)
		}
		timer.Reset(retryEvery)
	}
}

// known is what the watch remembers of a key of the catalog.
type known struct {
	revision uint64
	checkID  string // empty: of a kind that is not ours
}

// apply takes in what the catalog says. An entry that does not read changes
// nothing: what was known before stays.
func (k *Ticker) apply(batch []bus.Entry, complete bool) {
	listed := make(map[string]struct{}, len(batch))
	for _, entry := range batch {
		before, found := k.keys[entry.Key]
		switch {
		case entry.Deleted:
			delete(k.keys, entry.Key)
			k.sched.remove(before.checkID)
			continue
		case found && before.revision == entry.Revision: // listed anew, as it was
		default:
			id, err := k.define(entry)
			if err != nil {
				k.log.Error("catalog entry not understood", "key", entry.Key, "err", err)
				break
			}
			if before.checkID != id {
				k.sched.remove(before.checkID)
			}
			k.keys[entry.Key] = known{entry.Revision, id}
		}
		listed[entry.Key] = struct{}{}
	}
	if !complete {
		return
	}
	maps.DeleteFunc(k.keys, func(key string, _ known) bool { _, ok := listed[key]; return !ok })
	ids := make(map[string]struct{}, len(k.keys))
	for _, one := range k.keys {
		ids[one.checkID] = struct{}{}
	}
	k.sched.retain(ids)
}

// define takes in an entry and returns the id of its check, none when it is of a
// kind that is not ours.
func (k *Ticker) define(entry bus.Entry) (checkID string, err error) {
	var scheduled picketv1.ScheduledCheck
	if err := entry.Decode(&scheduled); err != nil {
		return "", err
	}
	if kind := scheduled.GetCheck().GetKind(); kind != "" && !slices.Contains(k.opts.Kinds, kind) {
		return "", nil
	}
	t, err := newTarget(&scheduled, k.opts.Build)
	if err != nil {
		return "", err
	}
	k.sched.put(t)
	return t.id, nil
}
