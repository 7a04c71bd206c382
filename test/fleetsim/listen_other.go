//go:build !linux

package fleetsim

import (
	"context"
	"errors"
	"net"
)

func listenLoopback(context.Context, string) (net.Listener, error) { return nil, errors.ErrUnsupported }
