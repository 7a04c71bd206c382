package fleetsim

import (
	"context"
	"errors"
	"net"
	"syscall"
)

// listenLoopback listens on every address of the loopback device and on no other device.
func listenLoopback(ctx context.Context, port string) (net.Listener, error) {
	// No keep-alive probes: they cost four system calls a connection, and no wire is broken on loopback.
	config := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		var bind error
		err := raw.Control(func(fd uintptr) {
			// Before the socket listens, so there is no moment at which others could reach it. Linux 5.7 and newer let
			// everybody do this; before, it took root.
			bind = syscall.SetsockoptString(int(fd), syscall.SOL_SOCKET, syscall.SO_BINDTODEVICE, "lo")
		})
		return errors.Join(err, bind)
	}}
	return config.Listen(ctx, "tcp4", "0.0.0.0:"+port)
}
