package probe

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/picketd/picket/internal/health"
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

// shortAnswer is what an answer may take without asking for room: nearly all are shorter, and as many may be in memory as
// there are looks under way.
const shortAnswer = 64 << 10

// errNoRoom says that too many long answers were in memory until the look was over.
var errNoRoom = fmt.Errorf("%w: no room for another long answer", health.ErrOwnFault)

// room waits until there is room for a long answer; <-p.long gives it back.
func (p *Pool) room(ctx context.Context) error {
	select {
	case p.long <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errNoRoom
	}
}

// read reads an answer up to the limit. long says that it has taken room, which is so also with an error.
func (p *httpProber) read(ctx context.Context, r io.Reader, buf []byte) (body []byte, truncated, long bool, err error) {
	body, truncated, err = readAtMost(r, buf, min(p.bodyLimit, shortAnswer))
	if !truncated || p.bodyLimit <= shortAnswer {
		return body, truncated, false, err
	}
	if err := p.pool.room(ctx); err != nil {
		return body, true, false, err
	}
	body = body[:len(body)+1] // the byte that told is there already
	for _, most := range []int{min(4*shortAnswer, p.bodyLimit), p.bodyLimit} {
		// Grown in two steps: the many small ones of append would leave several times the answer behind.
		body = slices.Grow(body, most+1-len(body))
		body, truncated, err = readAtMost(r, body, most)
		if !truncated || most == p.bodyLimit {
			break
		}
		body = body[:most+1]
	}
	return body, truncated, true, err
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

func compressed(header http.Header) bool {
	encoding := header.Get("Content-Encoding")
	return strings.EqualFold(encoding, "gzip") || strings.EqualFold(encoding, "x-gzip")
}

// expand undoes gzip, which we never ask for but some send anyway, up to the
// body limit: a small answer must not become a large one. A body that is not
// what it claims is left as it is.
func (p *httpProber) expand(body []byte, truncated bool) ([]byte, bool) {
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
