package main

import (
	"context"
	"time"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/alerter"
	"github.com/picketd/picket/services/api"
	catalogservice "github.com/picketd/picket/services/catalog"
	"github.com/picketd/picket/services/collector"
	"github.com/picketd/picket/services/exporter"
	"github.com/picketd/picket/services/prober"
	"github.com/picketd/picket/services/writer"
)

const (
	selfInterval = 10 * time.Second
	// streamKeeper makes the streams anew that are deleted, for all services in the process: one that needs no database.
	streamKeeper = "prober"
)

// runner is a service that is wired and not started.
type runner interface {
	Run(ctx context.Context) error
}

// services makes every service, in the order in which they stop: first who
// answers people and who makes data, then who stores it, last who says what
// there is to do.
func (st *stack) services() []*part {
	s := &st.settings
	return []*part{
		st.newPart("api", st.storing(st.newAPI)),
		st.newPart("prober", st.connected(func(kit *service.Kit, conn *bus.Conn) (runner, error) {
			keyring, err := s.Keyring()
			if err != nil {
				return nil, err
			}
			return prober.New(s.Prober, prober.Deps{Kit: kit, Conn: conn, Keyring: keyring})
		})),
		st.newPart("collector", st.connected(func(kit *service.Kit, conn *bus.Conn) (runner, error) {
			keyring, err := s.Keyring()
			if err != nil {
				return nil, err
			}
			return collector.New(s.Collector, collector.Deps{Kit: kit, Conn: conn, Keyring: keyring})
		})),
		st.newPart("exporter", st.storing(func(kit *service.Kit, conn *bus.Conn, db *store.Store) (runner, error) {
			return exporter.New(s.Exporter, exporter.Deps{Kit: kit, Conn: conn, Store: db, Blob: st.exports})
		})),
		st.newPart("alerter", st.storing(func(kit *service.Kit, conn *bus.Conn, db *store.Store) (runner, error) {
			return alerter.New(s.Alerter, alerter.Deps{Kit: kit, Conn: conn, Store: db, Limits: st.limits()})
		})),
		st.newPart("writer", st.storing(func(kit *service.Kit, conn *bus.Conn, db *store.Store) (runner, error) {
			return writer.New(s.Writer, writer.Deps{Kit: kit, Conn: conn, Store: db})
		})),
		st.newPart("catalog", st.storing(func(kit *service.Kit, conn *bus.Conn, db *store.Store) (runner, error) {
			return catalogservice.New(s.Catalog, catalogservice.Deps{Kit: kit, Conn: conn, Store: db, Builtin: st.builtin(), Reload: st.reload})
		})),
	}
}

// newAPI makes the api, which answers on this process's listener.
func (st *stack) newAPI(kit *service.Kit, conn *bus.Conn, db *store.Store) (runner, error) {
	keyring, err := st.settings.Keyring()
	if err != nil {
		return nil, err
	}
	svc, err := api.New(st.settings.API, api.Deps{Kit: kit, Conn: conn, Store: db, Blob: st.exports, Keyring: keyring})
	if err != nil {
		return nil, err
	}
	handler := svc.Handler()
	st.api.Store(&handler)
	return svc, nil
}

// connected makes and runs a service with a connection to NATS of its own.
func (st *stack) connected(wire func(*service.Kit, *bus.Conn) (runner, error)) func(context.Context, *service.Kit) error {
	return func(ctx context.Context, kit *service.Kit) error {
		conn, err := st.connect(kit)
		if err != nil {
			return err
		}
		defer conn.Close()
		streams := service.Streams{Limits: st.limits(), KeptByAnother: kit.Name != streamKeeper}
		return service.WithStreams(ctx, kit, conn, streams, func(ctx context.Context) error {
			svc, err := wire(kit, conn)
			if err != nil {
				return err
			}
			return svc.Run(ctx)
		})
	}
}

// storing is connected with connections to the database besides.
func (st *stack) storing(wire func(*service.Kit, *bus.Conn, *store.Store) (runner, error)) func(context.Context, *service.Kit) error {
	return func(ctx context.Context, kit *service.Kit) error {
		db, err := st.openStore(ctx, kit)
		if err != nil {
			return err
		}
		defer db.Close()
		return st.connected(func(kit *service.Kit, conn *bus.Conn) (runner, error) { return wire(kit, conn, db) })(ctx, kit)
	}
}

// builtin is what Picket watches of itself, and the demo fleet: servers like
// anyone's, with the source self.
func (st *stack) builtin() []catalog.Server {
	servers := []catalog.Server{
		{
			Name: "picket-nats", DisplayName: "NATS",
			Checks: []catalog.Check{{Name: "health", Interval: selfInterval, TCP: &picketv1.TCPSpec{Address: hostPort(st.natsURL())}}},
		},
		{
			Name: "picket-database", DisplayName: "PostgreSQL",
			Checks: []catalog.Check{
				{Name: "health", Interval: selfInterval, HTTP: &picketv1.HTTPSpec{Url: st.url("/health/database")}},
				{Name: writer.PartitionCheck, Interval: time.Minute, Reported: true},
			},
		},
	}
	for _, p := range st.parts {
		server := catalog.Server{
			Name: "picket-" + p.kit.Name, DisplayName: "Service " + p.kit.Name,
			Checks: []catalog.Check{{Name: "health", Interval: selfInterval, HTTP: &picketv1.HTTPSpec{Url: st.url("/health/" + p.kit.Name)}}},
		}
		if server.Name == writer.WriterServer {
			server.Checks = append(server.Checks, catalog.Check{Name: writer.BacklogCheck, Interval: time.Minute, Reported: true})
		}
		servers = append(servers, server)
	}
	if st.demo != nil {
		servers = append(servers, st.demo.catalog()...)
	}
	return servers
}
