package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"regexp"
	"time"
)

// stack is Picket with a process for each service.
type stack struct {
	bench    *bench
	natsURL  string
	database database
	nats     *child
	postgres *child
	programs []*program
	settings []string
}

// startStack starts NATS and PostgreSQL; services are added.
func (b *bench) startStack(ctx context.Context, name string, postgres map[string]string) (*stack, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	s := &stack{bench: b}
	var err error
	if s.natsURL, s.nats, err = b.startNATS(ctx, name); err != nil {
		return nil, err
	}
	if s.database, s.postgres, err = b.startPostgres(ctx, name, postgres); err != nil {
		s.nats.stop()
		return nil, err
	}
	s.settings = []string{
		"NATS_URL=" + s.natsURL, "DATABASE_URL=" + s.database.URL, "PICKET_ADMIN_LISTEN=127.0.0.1:0", "LOG_LEVEL=INFO",
		"PICKET_SECRET_KEY=" + base64.StdEncoding.EncodeToString(key),
	}
	return s, nil
}

var adminLine = regexp.MustCompile(`"admin":"([^"]+)"`)

// add starts a service and waits until it has said where it is.
func (s *stack) add(ctx context.Context, service, instance string, settings ...string) error {
	file, err := s.bench.build(ctx, "services/"+service+"/cmd/"+service)
	if err != nil {
		return err
	}
	environment := append(append([]string{"PICKET_INSTANCE=" + instance}, s.settings...), settings...)
	p, err := s.bench.launch(ctx, instance, file, nil, environment)
	if err != nil {
		return err
	}
	s.programs = append(s.programs, p)
	return p.said(ctx, adminLine, time.Minute)
}

// ended is an error when any service has ended.
func (s *stack) ended() error {
	for _, p := range s.programs {
		if err := p.ended(); err != nil {
			return err
		}
	}
	return nil
}

func (s *stack) stop() {
	for _, p := range s.programs {
		p.stop()
	}
	s.postgres.stop()
	s.nats.stop()
}

// use is what a part of the stack has used.
type use struct {
	name   string
	cpu    time.Duration
	memory uint64
}

// uses are the parts, in the order of the data's way.
func (s *stack) uses() ([]use, error) {
	var all []use
	add := func(name string, pid int, cpuOf func(int) (time.Duration, error)) error {
		used, err := cpuOf(pid)
		if err != nil {
			return err
		}
		memory, err := treeMemory(pid)
		all = append(all, use{name, used, memory})
		return err
	}
	for _, p := range s.programs {
		if err := add(p.name, p.pid(), ownCPU); err != nil {
			return nil, err
		}
	}
	if err := add("NATS", s.nats.pid(), ownCPU); err != nil {
		return nil, err
	}
	return all, add("PostgreSQL", s.database.PID, treeCPU)
}
