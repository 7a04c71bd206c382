// Command writer stores probe results from the event stream.
package main

import (
	"context"
	"os"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/services/writer"
)

type config struct {
	service.Common
	service.Database
	writer.Config
}

// Validate checks what only the writer can.
func (c *config) Validate() error { return c.Config.Validate() }

func main() {
	program := service.Program[config]{
		Name:  "writer",
		About: "stores probe results from the event stream",
		Defaults: config{
			Common:   service.DefaultCommon("127.0.0.1:9463"),
			Database: service.DefaultDatabase(),
			Config:   writer.DefaultConfig(),
		},
		Common: func(c *config) *service.Common { return &c.Common },
		Run:    run,
	}
	os.Exit(service.Main(program, os.Args[1:], os.Stderr))
}

func run(ctx context.Context, kit *service.Kit, conn *bus.Conn, c config) error {
	address, warning := c.Resolve()
	if warning != "" {
		kit.Log.Warn("database settings disagree", "detail", warning)
	}
	db, err := store.Open(ctx, store.Options{URL: address, Log: kit.Log, MaxConns: int(c.MaxConns)})
	if err != nil {
		return err
	}
	defer db.Close()
	svc, err := writer.New(c.Config, writer.Deps{Kit: kit, Conn: conn, Store: db})
	if err != nil {
		return err
	}
	return svc.Run(ctx)
}
