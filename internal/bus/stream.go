package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The streams.
const (
	StreamEvents  = "PICKET_EVENTS"
	StreamMetrics = "PICKET_METRICS"
	StreamAlerts  = "PICKET_ALERTS"
	StreamExports = "PICKET_EXPORTS"
	StreamWork    = "PICKET_WORK"
	StreamDead    = "PICKET_DEAD"
)

const (
	day = 24 * time.Hour
	// EventAge is how long the event streams keep a message, and so how long any consumer may be away.
	EventAge = day
	// dedupWindow spares the store most doubles; correctness does not rest on it.
	dedupWindow = 2 * time.Minute
	// defaultMaxBytes bounds the event and metric streams when nothing else does.
	defaultMaxBytes = 20 << 30
	smallMaxBytes   = 1 << 30
	leastMaxBytes   = 64 << 20
	// leastBytes is the least that a stream or a bucket is made with.
	leastBytes = 1 << 20
)

// StreamLimits says how much the streams may hold.
type StreamLimits struct {
	// MaxBytes bounds each of the two large streams; 0 is 20 GB.
	MaxBytes int64
	// Replicas in a cluster; 0 is 1.
	Replicas int
}

// StreamInfo is the state of a stream.
type StreamInfo struct {
	// Created tells one life of a stream from the next.
	Created  time.Time
	FirstSeq uint64
	// FirstTime is when the stream took its oldest message.
	FirstTime time.Time
	LastSeq   uint64
	Messages  uint64
	Bytes     uint64
	MaxBytes  int64
}

// Epoch is the form of Created that rows keep: nanoseconds since the Unix epoch.
func (s StreamInfo) Epoch() int64 { return s.Created.UnixNano() }

// streams lists every stream as it should be. Event streams discard old: a full
// one must not stop the probers, and what was lost unread is a recorded gap.
func streams(limits StreamLimits) []jetstream.StreamConfig {
	if limits.MaxBytes <= 0 {
		limits.MaxBytes = defaultMaxBytes
	}
	if limits.Replicas <= 0 {
		limits.Replicas = 1
	}
	small := min(smallMaxBytes, limits.MaxBytes)
	stream := func(name string, maxBytes int64, age time.Duration, subjects ...string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name:        name,
			Subjects:    subjects,
			Storage:     jetstream.FileStorage,
			Retention:   jetstream.LimitsPolicy,
			Discard:     jetstream.DiscardOld,
			MaxAge:      age,
			MaxBytes:    maxBytes,
			Duplicates:  dedupWindow,
			Replicas:    limits.Replicas,
			AllowDirect: true,
		}
	}
	work := stream(StreamWork, small, 7*day, "picket.work.*")
	work.Retention = jetstream.WorkQueuePolicy
	// A full queue must say no: work that is thrown away silently is lost.
	work.Discard = jetstream.DiscardNew
	// The events first: how much room they get is how much the others get.
	return []jetstream.StreamConfig{
		stream(StreamEvents, limits.MaxBytes, EventAge,
			"picket.*.probe.>", "picket.*.catalog.>", "picket.*.command.>", ClockSubject),
		stream(StreamMetrics, limits.MaxBytes, EventAge, "picket.*.metric.>"),
		stream(StreamAlerts, small, 30*day, "picket.*.alert.>"),
		stream(StreamExports, small, 7*day, "picket.*.export.>"),
		work,
		stream(StreamDead, small, 30*day, "picket.*.dead.>"),
	}
}

// EnsureStreams creates the streams and buckets that are missing. A stream that
// an operator has resized stays as it is and is reported; one whose subjects
// differ is updated. It is idempotent and every service calls it at its start.
// Where that is left to another service, what is missing is ErrNotProvisioned.
func (c *Conn) EnsureStreams(ctx context.Context, limits StreamLimits) error {
	if err := c.ensureBuckets(ctx); err != nil {
		return err
	}
	all := streams(limits)
	for _, want := range all {
		if err := c.ensureStream(ctx, want, all); err != nil {
			return err
		}
	}
	return nil
}

// RestoreStreams creates the streams and buckets that somebody deleted since EnsureStreams, and touches no other.
func (c *Conn) RestoreStreams(ctx context.Context, limits StreamLimits) error {
	all := streams(limits)
	for _, want := range all {
		_, err := c.js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			c.log.Error("stream is gone", "stream", want.Name)
			err = c.createStream(ctx, want, all)
		}
		if err != nil {
			return fmt.Errorf("restore stream %s: %w", want.Name, err)
		}
	}
	return c.ensureBuckets(ctx)
}

func (c *Conn) ensureStream(ctx context.Context, want jetstream.StreamConfig, all []jetstream.StreamConfig) error {
	existing, err := c.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return c.createStream(ctx, want, all)
	}
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", want.Name, err)
	}
	have := existing.CachedInfo().Config
	if own, ok := have.Metadata[ownRoom]; ok && !c.leave {
		return c.giveBack(ctx, have, own)
	}
	if have.Retention == want.Retention && slices.Equal(have.Subjects, want.Subjects) {
		if have.MaxBytes != want.MaxBytes || have.MaxAge != want.MaxAge || have.Replicas != want.Replicas || have.Discard != want.Discard {
			c.log.Info("stream keeps the limits set on the server", "stream", want.Name,
				"max_bytes", have.MaxBytes, "max_age", have.MaxAge, "replicas", have.Replicas, "discard", have.Discard)
		}
		return nil
	}
	if c.leave {
		return fmt.Errorf("stream %s has other subjects than this version needs: %w", want.Name, ErrNotProvisioned)
	}
	have.Subjects = want.Subjects
	have.Retention = want.Retention
	c.log.Warn("stream has other subjects than this version needs, updating it", "stream", want.Name)
	if _, err := c.js.UpdateStream(ctx, have); err != nil {
		return fmt.Errorf("update stream %s: %w", want.Name, err)
	}
	return nil
}

// ownRoom is the metadata of the event stream while it holds the room of all streams: the bytes that are its own.
const ownRoom = "picket-own-room"

const (
	roomTries = 20
	roomWait  = 100 * time.Millisecond
)

// createStream takes less room when the server has less to give. The event stream is made with the room of all that are
// missing, or with a half, a quarter, … of it, and gives back what is not its own; the others get the same share. So the first
// leave something for the last, however small the disk is.
func (c *Conn) createStream(ctx context.Context, want jetstream.StreamConfig, all []jetstream.StreamConfig) error {
	if c.leave {
		return fmt.Errorf("stream %s: %w", want.Name, ErrNotProvisioned)
	}
	if want.Name == StreamEvents {
		return c.createEvents(ctx, want, all)
	}
	// Services that begin at once stand in each other's way for a moment. After that the room is gone to somebody else, and
	// the stream takes what is left: a small one loses less than none.
	for left := roomTries; ; left-- {
		err := c.createOther(ctx, want, all[0])
		switch {
		case !outOfRoom(err):
			return err
		case c.exists(ctx, want.Name):
			return nil // the server looks for room before it looks for the name
		case left <= 0 && want.MaxBytes <= leastBytes:
			return err
		case left <= 0:
			want.MaxBytes = max(want.MaxBytes/2, leastBytes)
			c.log.Warn("the server has no room for a stream, making it smaller", "stream", want.Name, "max_bytes", want.MaxBytes)
			continue
		}
		if !sleep(ctx, roomWait) {
			return err
		}
	}
}

func (c *Conn) exists(ctx context.Context, stream string) bool {
	_, err := c.js.Stream(ctx, stream)
	return err == nil
}

// createOther gives a stream the share of its room that the event stream has of its own.
func (c *Conn) createOther(ctx context.Context, want, wantEvents jetstream.StreamConfig) error {
	stream, err := c.js.Stream(ctx, StreamEvents)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", StreamEvents, err)
	}
	events := stream.CachedInfo().Config
	have := events.MaxBytes
	if own, ok := events.Metadata[ownRoom]; ok {
		if err := c.giveBack(ctx, events, own); err != nil {
			return err
		}
		have, _ = strconv.ParseInt(own, 10, 64) // giveBack has read it
	}
	if have > 0 && have < wantEvents.MaxBytes {
		want.MaxBytes = max(leastBytes, int64(float64(want.MaxBytes)*float64(have)/float64(wantEvents.MaxBytes)))
	}
	_, err = c.js.CreateStream(ctx, want)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return fmt.Errorf("create stream %s: %w", want.Name, err)
	}
	return nil
}

func (c *Conn) createEvents(ctx context.Context, want jetstream.StreamConfig, all []jetstream.StreamConfig) error {
	own, total := want.MaxBytes, want.MaxBytes
	for _, other := range all[1:] {
		_, err := c.js.Stream(ctx, other.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			total += other.MaxBytes // it has its room still to come
		case err != nil:
			return fmt.Errorf("look up stream %s: %w", other.Name, err)
		}
	}
	for ; ; total, own = total/2, own/2 {
		want.MaxBytes = total
		want.Metadata = map[string]string{ownRoom: strconv.FormatInt(own, 10)}
		_, err := c.js.CreateStream(ctx, want)
		switch {
		case err == nil:
			return c.giveBack(ctx, want, want.Metadata[ownRoom])
		case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse), outOfRoom(err) && c.exists(ctx, want.Name):
			// Another service was faster by a moment, and may hold the room of the others still.
			return c.ensureStream(ctx, all[0], all)
		case !outOfRoom(err) || total < leastMaxBytes:
			return fmt.Errorf("create stream %s: %w", want.Name, err)
		}
	}
}

// giveBack leaves the event stream what is its own. Whoever finds one that holds more does it, since who made it may be
// gone; done twice it is done once.
func (c *Conn) giveBack(ctx context.Context, have jetstream.StreamConfig, own string) error {
	bytes, err := strconv.ParseInt(own, 10, 64)
	if err != nil || bytes <= 0 {
		return fmt.Errorf("give back room of stream %s: %q is no number of bytes", have.Name, own)
	}
	have.MaxBytes = bytes
	have.Metadata = nil
	if _, err := c.js.UpdateStream(ctx, have); err != nil {
		return fmt.Errorf("give back room of stream %s: %w", have.Name, err)
	}
	return nil
}

// outOfRoom reports the answers to a stream that is larger than the server allows:
// 10023 insufficient resources, 10028 and 10047 memory or storage of the account exceeded.
func outOfRoom(err error) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode {
	case 10023, 10028, 10047:
		return true
	default:
		return false
	}
}

// StreamInfo returns the state of a stream now.
func (c *Conn) StreamInfo(ctx context.Context, name string) (StreamInfo, error) {
	stream, err := c.js.Stream(ctx, name)
	if err != nil {
		return StreamInfo{}, fmt.Errorf("look up stream %s: %w", name, err)
	}
	return streamInfo(stream.CachedInfo()), nil
}

func streamInfo(info *jetstream.StreamInfo) StreamInfo {
	return StreamInfo{
		Created:   info.Created,
		FirstSeq:  info.State.FirstSeq,
		FirstTime: info.State.FirstTime,
		LastSeq:   info.State.LastSeq,
		Messages:  info.State.Msgs,
		Bytes:     info.State.Bytes,
		MaxBytes:  info.Config.MaxBytes,
	}
}

// AckFloor returns the sequence up to which a durable has acknowledged everything.
func (c *Conn) AckFloor(ctx context.Context, stream, durable string) (uint64, error) {
	consumer, err := c.js.Consumer(ctx, stream, durable)
	if err != nil {
		return 0, fmt.Errorf("look up consumer %s of %s: %w", durable, stream, err)
	}
	return consumer.CachedInfo().AckFloor.Stream, nil
}
