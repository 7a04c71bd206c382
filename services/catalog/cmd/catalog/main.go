// Command catalog runs the catalog service as a process of its own.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/services/catalog"
)

type config struct {
	service.Common
	service.Database
	catalog.Config
}

// Validate checks what only the catalog can.
func (c *config) Validate() error { return c.Config.Validate() }

func main() {
	os.Exit(service.Main(service.Program[config]{
		Name:  "catalog",
		About: "decides what is watched: reads the environment and picket.yaml, and tells everybody",
		Defaults: config{
			Common: service.DefaultCommon("127.0.0.1:9461"), Database: service.DefaultDatabase(), Config: catalog.DefaultConfig(),
		},
		Common: func(c *config) *service.Common { return &c.Common },
		Run:    run,
	}, os.Args[1:], os.Stderr))
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
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	c.File = kit.ConfigFile
	s, err := catalog.New(c.Config, catalog.Deps{Kit: kit, Conn: conn, Store: db, Reload: reload})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}
