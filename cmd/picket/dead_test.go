package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// writeLetters has a consumer give up five messages, in this order: a good result in JSON, one in protobuf, one that
// speaks to terminals, one of the wrong organization, and an item of work that is no message at all.
func writeLetters(t *testing.T, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	result := func(server, org, text string) bus.Message {
		at := time.Now().Truncate(time.Second)
		return bus.Message{
			Subject: bus.ProbeSubject("default", picketv1.Status_STATUS_HEALTHY, "local", server, "health"), ID: "id-" + server, Time: at,
			Payload: &picketv1.ProbeResult{
				Status: picketv1.Status_STATUS_HEALTHY, Org: org, Server: server, Check: "health", Location: "local", Kind: "http",
				CheckId: "3f0c6f5e-8d5f-4c0e-9f6e-2f6b6f1f2a01", ScheduledAt: timestamppb.New(at), Message: text,
			},
		}
	}
	connect := func(encoding wire.Encoding) *bus.Conn {
		conn, err := bus.Connect(bus.Options{URL: url, Name: t.Name(), Encoding: encoding, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		if err := conn.WaitConnected(ctx); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	conn, binary := connect(wire.JSON), connect(wire.Protobuf)
	if err := conn.EnsureStreams(ctx, bus.StreamLimits{MaxBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	consume := func(stream, consumer string, n int) {
		consuming, stop := context.WithCancel(ctx)
		var group sync.WaitGroup
		group.Go(func() {
			_ = conn.Consume(consuming, bus.ConsumeOptions{
				Stream: stream, Durable: consumer, MaxBatch: 1, MaxWait: time.Millisecond,
				Available: func(context.Context) error { return nil },
				Handle: func(ctx context.Context, batch []*bus.Msg) error {
					for _, msg := range batch {
						reason := bus.ReasonRefused
						if strings.Contains(string(msg.Data), "another") {
							reason = bus.ReasonContract
						}
						if err := msg.DeadLetter(ctx, reason, errors.New("refused\x1b[31m by a test")); err != nil {
							return err
						}
						if n--; n == 0 {
							stop()
						}
					}
					return nil
				},
			})
		})
		group.Wait()
	}
	for _, send := range []struct {
		conn    *bus.Conn
		message bus.Message
	}{
		{conn, result("json", "default", "")},
		{binary, result("binary", "default", "in protobuf")},
		{conn, result("terminal", "default", "\x1b]0;owned\a\u202e")},
		{conn, result("wrong", "another", "")},
		{binary, bus.Message{Subject: bus.WorkSubject(bus.WorkExport), Time: time.Now(), Payload: &picketv1.ExportWork{ExportId: strings.Repeat("\x01", 40)}}},
	} {
		if _, err := send.conn.Publish(ctx, send.message); err != nil {
			t.Fatal(err)
		}
	}
	consume(bus.StreamEvents, "writer", 4)
	consume(bus.StreamWork, "exporter", 1)
}
