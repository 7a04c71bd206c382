// Command exporter makes the exports that people ask for.
package main

import (
	"context"
	"errors"
	"os"
	"runtime/debug"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
	"github.com/picketd/picket/services/exporter"
)

type config struct {
	service.Common
	service.Database
	Blob blob.Config
	exporter.Config
}

// Validate checks what only the exporter can.
func (c *config) Validate() error { return errors.Join(c.Config.Validate(), c.Blob.Validate()) }

const (
	// partSize is S3's least: an upload holds two parts in memory. An object has 10,000 of them at most, 48 GiB.
	partSize = 5 << 20
	// gcPercent keeps garbage within a quarter of what lives: with it one export takes less than 64 MB, of whatever size.
	gcPercent = 25
)

func main() {
	debug.SetGCPercent(gcPercent)
	program := service.Program[config]{
		Name:  "exporter",
		About: "makes the exports that people ask for",
		Defaults: config{
			Common:   service.DefaultCommon("127.0.0.1:9466"),
			Database: service.DefaultDatabase(),
			Blob:     blob.DefaultConfig(),
			Config:   exporter.DefaultConfig(),
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
	objects, err := blob.Open(blob.Options{Config: c.Blob, PartSize: partSize})
	if err != nil {
		return err
	}
	defer func() { _ = objects.Close() }() // nothing is on its way any more
	svc, err := exporter.New(c.Config, exporter.Deps{Kit: kit, Conn: conn, Store: db, Blob: objects})
	if err != nil {
		return err
	}
	return svc.Run(ctx)
}
