package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/service"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/services/alerter"
	catalogservice "github.com/picketd/picket/services/catalog"
	"github.com/picketd/picket/services/prober"
	"github.com/picketd/picket/services/writer"
)

const selfInterval = 10 * time.Second

// services makes every service, in the order in which they stop: first who
// makes data, then who stores it, last who says what there is to do.
func (st *stack) services() []*part {
	return []*part{
		st.newPart("prober", func(ctx context.Context, kit *service.Kit) error {
			conn, err := st.connect(ctx, kit)
			if err != nil {
				return err
			}
			defer conn.Close()
			svc, err := prober.New(st.settings.Prober, prober.Deps{Kit: kit, Conn: conn})
			if err != nil {
				return err
			}
			return svc.Run(ctx)
		}),
		st.newPart("alerter", func(ctx context.Context, kit *service.Kit) error {
			conn, err := st.connect(ctx, kit)
			if err != nil {
				return err
			}
			defer conn.Close()
			db, err := st.openStore(ctx, kit)
			if err != nil {
				return err
			}
			defer db.Close()
			svc, err := alerter.New(st.settings.Alerter, alerter.Deps{Kit: kit, Conn: conn, Store: db, Limits: st.limits()})
			if err != nil {
				return err
			}
			return svc.Run(ctx)
		}),
		st.newPart("writer", func(ctx context.Context, kit *service.Kit) error {
			conn, err := st.connect(ctx, kit)
			if err != nil {
				return err
			}
			defer conn.Close()
			db, err := st.openStore(ctx, kit)
			if err != nil {
				return err
			}
			defer db.Close()
			svc, err := writer.New(st.settings.Writer, writer.Deps{Kit: kit, Conn: conn, Store: db})
			if err != nil {
				return err
			}
			return svc.Run(ctx)
		}),
		st.newPart("catalog", func(ctx context.Context, kit *service.Kit) error {
			conn, err := st.connect(ctx, kit)
			if err != nil {
				return err
			}
			defer conn.Close()
			db, err := st.openStore(ctx, kit)
			if err != nil {
				return err
			}
			defer db.Close()
			reload := make(chan os.Signal, 1)
			signal.Notify(reload, syscall.SIGHUP)
			defer signal.Stop(reload)
			svc, err := catalogservice.New(st.settings.Catalog, catalogservice.Deps{Kit: kit, Conn: conn, Store: db, Builtin: st.builtin(), Reload: reload})
			if err != nil {
				return err
			}
			return svc.Run(ctx)
		}),
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
		servers = append(servers, catalog.Server{
			Name: "picket-" + p.kit.Name, DisplayName: "Service " + p.kit.Name,
			Checks: []catalog.Check{{Name: "health", Interval: selfInterval, HTTP: &picketv1.HTTPSpec{Url: st.url("/health/" + p.kit.Name)}}},
		})
	}
	if st.demo != nil {
		servers = append(servers, st.demo.catalog()...)
	}
	return servers
}
