// Command collector runs one collector as a process of its own.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/services/collector"
)

type config struct {
	service.Common
	service.Secrets
	collector.Config
}

// Validate checks what the collector is told.
func (c config) Validate() error {
	_, err := c.Keyring()
	return errors.Join(c.Config.Validate(), err)
}

func main() {
	os.Exit(service.Main(service.Program[config]{
		Name:     "collector",
		About:    "fetches the figures of the servers of one location and publishes them",
		Defaults: config{Common: service.DefaultCommon("127.0.0.1:9465"), Config: collector.DefaultConfig()},
		Common:   func(c *config) *service.Common { return &c.Common },
		Run: func(ctx context.Context, kit *service.Kit, conn *bus.Conn, c config) error {
			keyring, err := c.Keyring()
			if err != nil {
				return err
			}
			s, err := collector.New(c.Config, collector.Deps{Kit: kit, Conn: conn, Keyring: keyring})
			if err != nil {
				return err
			}
			return s.Run(ctx)
		},
	}, os.Args[1:], os.Stderr))
}
