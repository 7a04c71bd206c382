// Command api answers people: everything under /api/v1/fleet.
package main

import (
	"context"
	"os"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/services/api"
)

type config struct {
	service.Common
	service.Database
	service.Secrets
	api.Config
}

// Validate checks what only the api can.
func (c *config) Validate() error { return c.Config.Validate() }

func main() {
	defaults := api.DefaultConfig()
	defaults.Listen = "127.0.0.1:9468"
	program := service.Program[config]{
		Name:  "api",
		About: "answers people: everything under /api/v1/fleet",
		Defaults: config{
			Common:   service.DefaultCommon("127.0.0.1:9467"),
			Database: service.DefaultDatabase(),
			Config:   defaults,
		},
		Common: func(c *config) *service.Common { return &c.Common },
		Run:    run,
	}
	os.Exit(service.Main(program, os.Args[1:], os.Stderr))
}

func run(ctx context.Context, kit *service.Kit, conn *bus.Conn, c config) error {
	keyring, err := c.Keyring()
	if err != nil {
		return err
	}
	address, warning := c.Resolve()
	if warning != "" {
		kit.Log.Warn("database settings disagree", "detail", warning)
	}
	db, err := store.Open(ctx, store.Options{URL: address, Log: kit.Log, MaxConns: int(c.MaxConns)})
	if err != nil {
		return err
	}
	defer db.Close()
	svc, err := api.New(c.Config, api.Deps{Kit: kit, Conn: conn, Store: db, Keyring: keyring})
	if err != nil {
		return err
	}
	return svc.Run(ctx)
}
