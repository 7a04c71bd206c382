package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// StreamState is what one of Picket's streams holds now.
type StreamState struct {
	Name string
	StreamInfo
	// Consumers are its durables, in no order. Consumers that the server has named itself come and go with their reader.
	Consumers []ConsumerState
}

// ConsumerState is how far a durable is.
type ConsumerState struct {
	Name string
	// Pending messages are yet to be delivered; AckPending are delivered and not yet acknowledged; Redelivered are those
	// of them that were delivered more than once.
	Pending     uint64
	AckPending  int
	Redelivered int
}

// StreamStates asks for the state of every stream of Picket that is there.
func (c *Conn) StreamStates(ctx context.Context) ([]StreamState, error) {
	if err := c.Ready(); err != nil {
		return nil, fmt.Errorf("ask for the streams: %w", err)
	}
	var states []StreamState
	for _, config := range streams(StreamLimits{}) {
		stream, err := c.js.Stream(ctx, config.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ask for stream %s: %w", config.Name, err)
		}
		state := StreamState{Name: config.Name, StreamInfo: streamInfo(stream.CachedInfo())}
		if stream.CachedInfo().State.Consumers > 0 {
			if state.Consumers, err = durables(ctx, stream); err != nil {
				return nil, fmt.Errorf("ask for the consumers of %s: %w", config.Name, err)
			}
		}
		states = append(states, state)
	}
	return states, nil
}

func durables(ctx context.Context, stream jetstream.Stream) ([]ConsumerState, error) {
	var all []ConsumerState
	list := stream.ListConsumers(ctx)
	for info := range list.Info() {
		if info.Config.Durable == "" {
			continue
		}
		all = append(all, ConsumerState{
			Name: info.Config.Durable, Pending: info.NumPending, AckPending: info.NumAckPending, Redelivered: info.NumRedelivered,
		})
	}
	return all, list.Err()
}
