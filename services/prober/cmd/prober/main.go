// Command prober runs one prober as a process of its own.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/services/prober"
)

type config struct {
	service.Common
	service.Secrets
	prober.Config
}

// Validate checks what the prober is told.
func (c config) Validate() error {
	_, err := c.Keyring()
	return errors.Join(c.Config.Validate(), err)
}

func main() {
	os.Exit(service.Main(service.Program[config]{
		Name:     "prober",
		About:    "looks at the targets of one location and publishes what it sees",
		Defaults: config{Common: service.DefaultCommon("127.0.0.1:9462"), Config: prober.DefaultConfig()},
		Common:   func(c *config) *service.Common { return &c.Common },
		Run: func(ctx context.Context, kit *service.Kit, conn *bus.Conn, c config) error {
			keyring, err := c.Keyring()
			if err != nil {
				return err
			}
			p, err := prober.New(c.Config, prober.Deps{Kit: kit, Conn: conn, Keyring: keyring})
			if err != nil {
				return err
			}
			return p.Run(ctx)
		},
	}, os.Args[1:], os.Stderr))
}
