package probe

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/picketd/picket/internal/credential"
	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// answerLimit bounds what is read of an answer. Each piece that comes is matched
// together with all before it, so that it also bounds what a target that sends
// byte by byte can make us compute.
const answerLimit = 8 << 10

// tcpProber runs checks of the kind tcp: connect, with TLS if wished, send, and
// read until the answer is as expected.
type tcpProber struct {
	address string
	greet   []byte
	expect  *health.TCPExpectations
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	limit   int
}

func newTCP(check *picketv1.Check, opt Options) (Prober, error) {
	spec := check.GetTcp()
	if spec == nil {
		return nil, fieldError("tcp", errors.New("is missing"))
	}
	expect, err := health.CompileTCP(spec)
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(spec.GetAddress())
	if err != nil || host == "" {
		return nil, fieldError("address", errors.New("not host:port"))
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, fieldError("address", errors.New("port is not between 1 and 65535"))
	}
	p := &tcpProber{
		address: spec.GetAddress(), greet: []byte(spec.GetSend()), expect: expect,
		dial: opt.Pool.dialContext, limit: min(answerLimit, opt.BodyLimit),
	}
	if spec.GetUseTls() {
		config, _, err := credential.TLS(spec.GetTls())
		if err != nil {
			return nil, err
		}
		p.dial = tlsDialer{pool: opt.Pool, config: config}.dialContext
	}
	return p, nil
}

func (p *tcpProber) Probe(ctx context.Context) *picketv1.ProbeResult {
	return p.look(newLook(ctx)) //nolint:contextcheck // l is the context
}

func (p *tcpProber) look(l *look) *picketv1.ProbeResult {
	start := time.Now()
	answer, err := p.talk(l)
	latency := time.Since(start)
	var o health.Outcome
	// A target that says the wrong thing and then falls silent or hangs up was
	// reached; one that we stopped listening to was not judged.
	if err != nil && (len(answer) == 0 || errors.Is(l.Err(), context.Canceled)) {
		o = failed(l, err, l.at())
	} else {
		o = p.expect.TCP(answer, latency)
	}
	r := result("tcp", start, latency, o)
	l.describe(r)
	return r
}

// talk returns what was read also with an error.
func (p *tcpProber) talk(l *look) ([]byte, error) {
	conn, err := p.dial(l, "tcp", p.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	l.reached(waiting)
	stop := context.AfterFunc(l.Context, func() {
		// Wakes reads and writes; on a closed connection there is none to wake.
		_ = conn.SetDeadline(time.Unix(1, 0))
	})
	defer stop()
	if len(p.greet) > 0 {
		if _, err := conn.Write(p.greet); err != nil {
			return nil, err
		}
	}
	if !p.expect.WantsAnswer() {
		return nil, nil
	}
	answer := make([]byte, 0, 512)
	for len(answer) < p.limit {
		if len(answer) == cap(answer) {
			answer = append(answer, 0)[:len(answer)]
		}
		n, err := conn.Read(answer[len(answer):min(cap(answer), p.limit)])
		answer = answer[:len(answer)+n]
		if n > 0 {
			l.reached(reading)
			if p.expect.Satisfied(answer) {
				return answer, nil
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) && len(answer) > 0 {
				err = nil
			}
			return answer, err
		}
	}
	return answer, nil
}
