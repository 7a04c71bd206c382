package bus_test

import (
	"context"
	"slices"
	"testing"
	"time"

	natsclient "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/embedded/embeddedtest"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// batch is what a watcher was told at once.
type batch struct {
	keys     []string
	complete bool
}

// watching runs a watch until the test ends; what it is told comes out of the channel.
func watching(t *testing.T, bucket *bus.Bucket, filter string) <-chan batch {
	t.Helper()
	told := make(chan batch, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- bucket.Watch(ctx, filter, func(entries []bus.Entry, complete bool) {
			b := batch{complete: complete}
			for _, entry := range entries {
				b.keys = append(b.keys, entry.Key)
			}
			slices.Sort(b.keys)
			told <- b
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return told
}

func (b batch) want(t *testing.T, complete bool, keys ...string) {
	t.Helper()
	if b.complete != complete || !slices.Equal(b.keys, keys) {
		t.Fatalf("told of %v, complete: %v, and not of %v, complete: %v", b.keys, b.complete, keys, complete)
	}
}

func next(t *testing.T, told <-chan batch) batch {
	t.Helper()
	select {
	case b := <-told:
		return b
	case <-time.After(patience):
		t.Fatal("the watcher is told nothing")
		return batch{}
	}
}

func put(t *testing.T, bucket *bus.Bucket, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if err := bucket.Put(t.Context(), key, &picketv1.ServerStatus{Server: key}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWatchDoesNotListForNothing: a watcher that has seen everything asks whether it has, and lists nothing anew; it does
// when its bucket turns out to be another one.
func TestWatchDoesNotListForNothing(t *testing.T) {
	t.Parallel()
	url := embeddedtest.NATS(t)
	conn := connect(t, url)
	ensureStreams(t, conn)
	bucket, err := conn.CatalogBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bucket.CheckEvery(10 * time.Millisecond)
	put(t, bucket, "here.a", "there.b")

	nc, err := natsclient.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	asked, err := nc.SubscribeSync("$JS.API.STREAM.INFO.KV_" + bus.BucketCatalog)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	// quiet waits until it was asked a few times more, and wants nothing told meanwhile.
	told := watching(t, bucket, ">")
	quiet := func() {
		t.Helper()
		for range 10 {
			if _, err := asked.NextMsg(patience); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case b := <-told:
			t.Fatalf("told of %v, complete: %v, though nothing happened", b.keys, b.complete)
		default:
		}
	}
	next(t, told).want(t, true, "here.a", "there.b")
	quiet()
	put(t, bucket, "here.c")
	next(t, told).want(t, false, "here.c")
	quiet()

	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteKeyValue(t.Context(), bus.BucketCatalog); err != nil {
		t.Fatal(err)
	}
	anew, err := conn.CatalogBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	put(t, anew, "here.d", "here.e", "here.f", "here.g")
	// Listed anew it is at some time meanwhile, and what came later is told.
	var known []string
	for listed := false; !listed || len(known) < 4; {
		b := next(t, told)
		if b.complete {
			listed, known = true, nil
		}
		known = append(known, b.keys...)
	}
	if slices.Sort(known); !slices.Equal(known, []string{"here.d", "here.e", "here.f", "here.g"}) {
		t.Errorf("known are %v", known)
	}
}

// TestWatchListsWhatItCannotSee: what changes outside the filter is not seen, so that the watcher lists its own anew: it
// cannot know that it missed nothing.
func TestWatchListsWhatItCannotSee(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	bucket, err := conn.CatalogBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bucket.CheckEvery(10 * time.Millisecond)
	put(t, bucket, "here.a", "there.b")
	told := watching(t, bucket, "here.>")
	next(t, told).want(t, true, "here.a")
	put(t, bucket, "there.c")
	next(t, told).want(t, true, "here.a")
}
