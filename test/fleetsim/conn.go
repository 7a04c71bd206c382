package fleetsim

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"time"
)

const (
	firstRead  = 512      // a prober's request; a fleet of many connections holds as many of these
	maxRequest = 16 << 10 // the head of one
	maxBody    = 1 << 20
)

var errMalformed = errors.New("malformed request")

// serve answers the requests of one connection until either side ends it.
func (f *Fleet) serve(conn net.Conn, i int) {
	if at := time.Since(f.started); f.Behaviour(i).greets() {
		f.seen.add(at)
		f.servers[i].arrive(at, f.opts.Keep)
		f.attack(conn, f.Behaviour(i))
		return
	}
	in := make([]byte, 0, firstRead)
	var out, body []byte
	for {
		request, rest, err := readRequest(conn, in)
		if err != nil {
			if errors.Is(err, errMalformed) {
				f.malformed.Add(1)
			}
			return
		}
		at := time.Since(f.started)
		var n uint64
		if !request.metrics {
			f.seen.add(at)
			n = f.servers[i].arrive(at, f.opts.Keep)
		}
		admitted := f.admits(request.authorization)
		if !admitted {
			f.refused.Add(1)
		}
		mode := MetricsMode(f.servers[i].metrics.Load())
		switch behaviour := f.now(i, at); {
		case behaviour == Hanging:
			// Until the client gives up. An error of reading is that, too.
			_, _ = io.Copy(io.Discard, conn)
			return
		case behaviour == Resetting:
			reset(conn)
			return
		case behaviour.hostile():
			f.attack(conn, behaviour)
			return
		case !admitted:
			out = append(out[:0], unauthorized...)
		case request.metrics:
			now := time.Now()
			out, body = f.appendMetrics(out[:0], body, i, now, mode, request.head)
			if mode == GoodMetrics {
				f.servers[i].showed(now, f.opts.Keep)
			}
		default:
			out, body = f.appendAnswer(out[:0], body, i, behaviour, n, request.head)
		}
		if _, err := conn.Write(out); err != nil || request.last {
			return
		}
		if request.metrics && admitted && !request.head && (mode == HugeMetrics || mode == HangingMetrics) {
			f.goOn(conn, mode)
			return
		}
		in = append(in[:0], rest...) // rest may lie in a larger room, or overlap
	}
}

// goOn sends the rest of an answer that nobody should read to its end, or nothing until the client gives up.
func (f *Fleet) goOn(conn net.Conn, mode MetricsMode) {
	if mode == HangingMetrics {
		_, _ = io.Copy(io.Discard, conn) // an error of reading is the client's giving up, too
		return
	}
	spaces := bytes.Repeat([]byte(" "), 64<<10)
	for range hugeMetrics / len(spaces) {
		if _, err := conn.Write(spaces); err != nil {
			return
		}
	}
}

// request is what matters of one.
type request struct {
	head    bool // no body is wanted
	last    bool // the connection ends with it
	metrics bool // for figures
	// authorization is the header's value; it lies in the room that was read into.
	authorization []byte
}

// readRequest reads until a request is whole. in holds what has been read already; rest, which lies within the same
// room or a larger one, is what follows the request.
func readRequest(conn net.Conn, in []byte) (r request, rest []byte, err error) {
	end := -1
	for {
		if end = bytes.Index(in, []byte("\r\n\r\n")); end >= 0 {
			break
		}
		if len(in) >= maxRequest {
			return r, nil, errMalformed
		}
		if in, err = readMore(conn, in); err != nil {
			return r, nil, err
		}
	}
	head := in[:end+2]
	rest = in[end+4:]
	line, fields, _ := bytes.Cut(head, []byte("\r\n"))
	method, target, ok := bytes.Cut(line, []byte(" "))
	if !ok || !bytes.Contains(line, []byte(" HTTP/1.")) {
		return r, nil, errMalformed
	}
	r.head = string(method) == "HEAD"
	r.metrics = bytes.HasPrefix(target, []byte(MetricsPath+" "))
	r.last = bytes.HasSuffix(line, []byte("HTTP/1.0"))
	length := 0
	for len(fields) > 0 {
		var field []byte
		field, fields, _ = bytes.Cut(fields, []byte("\r\n"))
		name, value, ok := bytes.Cut(field, []byte(":"))
		if !ok {
			return r, nil, errMalformed
		}
		value = bytes.TrimSpace(value)
		switch {
		case equalFold(name, "connection"):
			r.last = r.last || equalFold(value, "close")
		case equalFold(name, "authorization"):
			r.authorization = value
		case equalFold(name, "transfer-encoding"):
			r.last = true // where its body ends does not matter then
		case equalFold(name, "content-length"):
			length, err = strconv.Atoi(string(value))
			if err != nil || length < 0 || length > maxBody {
				return r, nil, errMalformed
			}
		}
	}
	if length > len(rest) {
		_, err = io.CopyN(io.Discard, conn, int64(length-len(rest)))
		return r, nil, err
	}
	return r, rest[length:], nil
}

func readMore(conn net.Conn, in []byte) ([]byte, error) {
	if len(in) == cap(in) {
		in = append(make([]byte, 0, 2*cap(in)), in...)
	}
	n, err := conn.Read(in[len(in):cap(in)])
	if n > 0 {
		err = nil // comes again at the next read
	}
	return in[:len(in)+n], err
}

// equalFold compares with a word in lower case.
func equalFold(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != word[i] {
			return false
		}
	}
	return true
}
