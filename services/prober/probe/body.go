package probe

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
)

// Buffers start at a size that holds a health body, and those that had to grow
// far beyond it are not kept.
const (
	bufferSize     = 4 << 10
	bufferKeepSize = 64 << 10
)

func (p *Pool) buffer() *[]byte {
	if b, ok := p.buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, bufferSize)
	return &b
}

func (p *Pool) release(b *[]byte) {
	if cap(*b) <= bufferKeepSize {
		p.buffers.Put(b)
	}
}

// readAtMost appends up to limit bytes of r to buf and reports whether there was
// more. It returns what was read also with an error.
func readAtMost(r io.Reader, buf []byte, limit int) (_ []byte, truncated bool, _ error) {
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):min(cap(buf), limit+1)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > limit:
			return buf[:limit], true, nil
		case errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			return buf, false, nil
		case err != nil:
			return buf, false, err
		}
	}
}

// expand undoes gzip, which we never ask for but some send anyway, up to the
// body limit: a small answer must not become a large one. A body that is not
// what it claims is left as it is.
func (p *httpProber) expand(header http.Header, body []byte, truncated bool) ([]byte, bool) {
	encoding := header.Get("Content-Encoding")
	if len(body) == 0 || !strings.EqualFold(encoding, "gzip") && !strings.EqualFold(encoding, "x-gzip") {
		return body, truncated
	}
	unzip, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return body, truncated
	}
	plain, more, err := readAtMost(unzip, nil, p.bodyLimit)
	if err != nil && (!truncated || !errors.Is(err, io.ErrUnexpectedEOF)) {
		return body, truncated
	}
	return plain, more || truncated
}
