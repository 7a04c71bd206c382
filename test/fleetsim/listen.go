package fleetsim

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strconv"
)

const firstAddress = 0x7f010001 // 127.1.0.1: what programs usually listen on stays free

func address(i int) netip.Addr {
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], uint32(firstAddress+i))
	return netip.AddrFrom4(raw)
}

// listen makes the fleet reachable, on loopback alone. On Linux one listener bound to the loopback device accepts for
// every address: the kernel counts all of 127.0.0.0/8 to it. Where that is not allowed each server gets a listener; and
// where there is only 127.0.0.1, as on macOS, each a port as well.
func (f *Fleet) listen(ctx context.Context) error {
	port := strconv.Itoa(f.opts.Port)
	listener, err := listenLoopback(ctx, port)
	if err == nil {
		f.listeners = []net.Listener{listener}
		f.port = portOf(listener.Addr())
		return nil
	}
	if runtime.GOOS == "linux" {
		return f.listenEach(ctx, port)
	}
	if f.opts.Port != 0 {
		return fmt.Errorf("this system has one loopback address, so the servers need a port each: use port 0 (%w)", err)
	}
	f.byPort = map[int]int{}
	for i := range f.servers {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		f.listeners = append(f.listeners, listener)
		f.byPort[portOf(listener.Addr())] = i
	}
	return nil
}

func (f *Fleet) listenEach(ctx context.Context, port string) error {
	for i := range f.servers {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp4", net.JoinHostPort(address(i).String(), port))
		if err != nil {
			return err
		}
		f.listeners = append(f.listeners, listener)
		if i == 0 {
			f.port = portOf(listener.Addr())
			port = strconv.Itoa(f.port)
		}
	}
	return nil
}

// index finds the server that a connection is for; false when it is for nobody or not from this machine.
func (f *Fleet) index(conn net.Conn) (int, bool) {
	local, ok := conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return 0, false
	}
	remote, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok || !remote.IP.IsLoopback() {
		return 0, false
	}
	if f.byPort != nil {
		i, ok := f.byPort[local.Port]
		return i, ok
	}
	raw := local.IP.To4()
	if raw == nil {
		return 0, false
	}
	i := int(binary.BigEndian.Uint32(raw)) - firstAddress
	return i, i >= 0 && i < len(f.servers)
}

func portOf(addr net.Addr) int {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return tcp.Port
	}
	return 0
}
