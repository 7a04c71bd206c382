package fleetsim

import (
	"fmt"
	"strconv"
)

// Format is the form of the health bodies.
type Format string

// The forms that a fleet can speak.
const (
	// Pulse is {status, service, counters}; a server that does not work answers 503.
	Pulse Format = "pulse"
	// OpsCenter is {database: {status}, redis: {status}, services: {healthy}}; always 200.
	OpsCenter Format = "opscenter"
	// IETF is application/health+json (draft-inadarei-api-health-check): pass, warn, fail, the last with 503.
	IETF Format = "ietf"
)

func (f *Format) valid() error {
	switch *f {
	case Pulse, OpsCenter, IETF:
		return nil
	case "":
		*f = Pulse
		return nil
	}
	return fmt.Errorf("unknown format %q, there are %s, %s and %s", *f, Pulse, OpsCenter, IETF)
}

// appendAnswer appends a whole response. body is room for the body, reused.
func (f *Fleet) appendAnswer(out, body []byte, i int, behaviour Behaviour, n uint64, head bool) (answer, room []byte) {
	code := "200 OK"
	kind := "application/json"
	body = body[:0]
	switch f.opts.Format {
	case OpsCenter:
		database, services := "ok", "true"
		if behaviour == Critical {
			database = "unreachable"
		}
		if behaviour == Degraded {
			services = "false"
		}
		body = append(body, `{"database":{"status":"`...)
		body = append(body, database...)
		body = append(body, `"},"redis":{"status":"ok"},"services":{"healthy":`...)
		body = append(body, services...)
		body = append(body, `}}`...)
	case IETF:
		kind = "application/health+json"
		status := "pass"
		switch behaviour {
		case Degraded:
			status = "warn"
		case Critical:
			status, code = "fail", "503 Service Unavailable"
		}
		body = append(body, `{"status":"`...)
		body = append(body, status...)
		body = append(body, `","serviceId":"`...)
		body = appendName(body, i)
		body = append(body, `","version":"1"}`...)
	default:
		status := "ok"
		switch behaviour {
		case Degraded:
			status = "degraded"
		case Critical:
			status, code = "critical", "503 Service Unavailable"
		}
		body = append(body, `{"status":"`...)
		body = append(body, status...)
		body = append(body, `","service":"`...)
		body = appendName(body, i)
		body = append(body, `","counters":{"messages_received":`...)
		body = strconv.AppendUint(body, n, 10)
		body = append(body, `,"messages_written":`...)
		body = strconv.AppendUint(body, n, 10)
		body = append(body, `,"messages_rejected":0}}`...)
	}
	out = append(out, "HTTP/1.1 "...)
	out = append(out, code...)
	out = append(out, "\r\nContent-Type: "...)
	out = append(out, kind...)
	out = append(out, "\r\nContent-Length: "...)
	out = strconv.AppendInt(out, int64(len(body)), 10)
	out = append(out, "\r\n\r\n"...)
	if !head {
		out = append(out, body...)
	}
	return out, body
}

// appendName is [Fleet.Name] without its cost.
func appendName(b []byte, i int) []byte {
	b = append(b, "sim-"...)
	for limit := 100_000; limit > i && limit > 1; limit /= 10 {
		b = append(b, '0')
	}
	return strconv.AppendInt(b, int64(i), 10)
}
