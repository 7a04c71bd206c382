package probe

import (
	"bufio"
	"context"
	"strings"
	"testing"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestTCP(t *testing.T) {
	t.Parallel()
	redis := listen(t, func(c peer) {
		defer c.Close()
		line, err := bufio.NewReader(c).ReadString('\n')
		if err == nil && line == "PING\r\n" {
			c.say("+PO")
			c.say("NG\r\n")
		}
	})
	mute := listen(t, func(c peer) { c.linger() })
	banner := listen(t, func(c peer) { c.say("220 ready"); c.linger() })
	flood := listen(t, func(c peer) {
		defer c.Close()
		for chunk := []byte(strings.Repeat("x", 4096)); ; {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	})
	hangUp := listen(t, func(c peer) { c.Close() })
	tests := []struct {
		name           string
		spec           *picketv1.TCPSpec
		timeout        time.Duration
		status, reason string
	}{
		{"connects", &picketv1.TCPSpec{Address: mute}, patient, "healthy", ""},
		{"answers in pieces", &picketv1.TCPSpec{Address: redis, Send: "PING\r\n", Expect: `^\+PONG\r\n$`}, patient, "healthy", ""},
		{"banner", &picketv1.TCPSpec{Address: banner, Expect: "^220 "}, patient, "healthy", ""},
		{"other banner", &picketv1.TCPSpec{Address: banner, Expect: "^250 "}, impatient, "critical", "assert_answer"},
		{"hangs up after the answer", &picketv1.TCPSpec{Address: redis, Send: "PING\r\n", Expect: `^-`}, patient, "critical", "assert_answer"},
		{"no answer", &picketv1.TCPSpec{Address: mute, Expect: "x"}, impatient, "unreachable", "timeout"},
		{"hangs up", &picketv1.TCPSpec{Address: hangUp, Expect: "x"}, patient, "unreachable", "closed"},
		{"endless answer", &picketv1.TCPSpec{Address: flood, Expect: "y"}, patient, "critical", "assert_answer"},
		{"slow", &picketv1.TCPSpec{Address: banner, Expect: "^220", MaxLatencyMs: 60_000}, patient, "healthy", ""},
		{"refused", &picketv1.TCPSpec{Address: "127.0.0.1:1"}, patient, "unreachable", "refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := within(t, compileTCP(t, newPool(t, PoolOptions{}), tt.spec), tt.timeout)
			wantResult(t, r, tt.status, tt.reason)
		})
	}
}

func TestTCPCancelled(t *testing.T) {
	t.Parallel()
	pool := newPool(t, PoolOptions{})
	address := listen(t, func(c peer) {
		c.say("half")
		c.linger()
	})
	p, ok := compileTCP(t, pool, &picketv1.TCPSpec{Address: address, Expect: "whole"}).(*tcpProber)
	if !ok {
		t.Fatal("not a tcp prober")
	}
	ctx, cancel := context.WithCancel(t.Context())
	l := newLook(ctx)
	result := make(chan *picketv1.ProbeResult)
	go func() { result <- p.look(l) }()
	eventually(t, "half an answer was read", func() bool { return l.at() == reading })
	cancel()
	wantResult(t, <-result, "unknown", "cancelled")
}
