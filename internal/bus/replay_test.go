package bus_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestReplay(t *testing.T) {
	t.Parallel()
	conn := connected(t)
	ctx := testContext(t)
	messages := make([]bus.Message, 1300)
	for i := range messages {
		messages[i] = probeMessage(fmt.Sprint("a", i), int64(i))
		if i%10 == 0 {
			messages[i].Subject = bus.ProbeSubject("other", picketv1.Status_STATUS_HEALTHY, "local", "checkout", "health")
		}
	}
	if err := conn.PublishAll(ctx, messages[:len(messages)-1]); err != nil {
		t.Fatal(err)
	}
	last, err := conn.Publish(ctx, messages[len(messages)-1])
	if err != nil {
		t.Fatal(err)
	}
	read := func(from, to uint64, handle func(*bus.Msg) error) error {
		return conn.Replay(ctx, bus.ReplayOptions{
			Stream: bus.StreamEvents, Subjects: []string{bus.FamilyFilter("default", bus.FamilyProbe)}, From: from, To: to, Handle: handle,
		})
	}
	var got []uint64
	if err := read(5, last-5, func(m *bus.Msg) error { got = append(got, m.Sequence); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 || got[0] != 5 || got[len(got)-1] != last-5 {
		t.Fatalf("%d messages", len(got))
	}
	for i := 1; i < len(got); i++ {
		if got[i] <= got[i-1] || (got[i]-1)%10 == 0 {
			t.Fatalf("%d after %d", got[i], got[i-1])
		}
	}
	for name, bounds := range map[string][2]uint64{"nothing": {9, 8}, "nobody's": {1, 1}, "to come": {last + 1, last + 10}} {
		if err := read(bounds[0], bounds[1], func(m *bus.Msg) error { t.Errorf("%s: message %d", name, m.Sequence); return nil }); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	enough := errors.New("enough")
	if err := read(1, last, func(*bus.Msg) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("error %v", err)
	}
}
