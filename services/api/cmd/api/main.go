// Command api answers people: everything under /api/v1/fleet.
package main

import (
	"context"
	"os"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/services/api"
)

type config struct {
	service.Common
	service.Database
	service.Secrets
	Blob blob.Config
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
			Blob:     blob.DefaultConfig(),
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
	objects, err := openExports(c.Blob)
	if err != nil {
		return err
	}
	if objects != nil {
		defer func() { _ = objects.Close() }()
	}
	svc, err := api.New(c.Config, api.Deps{Kit: kit, Conn: conn, Store: db, Blob: objects, Keyring: keyring})
	if err != nil {
		return err
	}
	return svc.Run(ctx)
}

// openExports returns nil when nothing says where exports are: then everything but their download works.
func openExports(config blob.Config) (blob.Store, error) {
	if config.Endpoint == "" && config.Dir == "" {
		return nil, nil //nolint:nilnil // none is no fault
	}
	return blob.Open(blob.Options{Config: config})
}
