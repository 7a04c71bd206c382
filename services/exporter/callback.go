package exporter

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/picketd/picket/internal/store"
)

const (
	callbackEvery   = time.Second
	callbackTimeout = 10 * time.Second
	// callbackHold keeps a callback from others while one is at it.
	callbackHold = time.Minute
	callbackBody = 64 << 10 // what is read of an answer, so that the connection can be let go in order
)

// callbackWaits lie between the attempts at a callback; after the last it has failed.
func callbackWaits() []time.Duration {
	return []time.Duration{
		5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour,
	}
}

// errForbidden says that a callback may not go where it was to go.
var errForbidden = errors.New("callback address not allowed")

// callbackMessage is the body of a callback.
type callbackMessage struct {
	ExportID    string    `json:"export_id"`
	Status      string    `json:"status"`
	RowCount    int64     `json:"row_count"`
	CompletedAt time.Time `json:"completed_at"`
	Error       string    `json:"error,omitempty"`
	Type        string    `json:"export_type"`
	Format      string    `json:"format"`
	Bytes       int64     `json:"file_size_bytes,omitempty"`
	SHA256      string    `json:"sha256,omitempty"`
}

// callBack tells those who asked for it how their exports ended.
func (s *Service) callBack(ctx context.Context) {
	client := newCallbackClient(s.config.CallbackPrivate)
	defer client.CloseIdleConnections()
	for {
		e, found, err := s.store.ClaimCallback(ctx, callbackHold)
		switch {
		case err != nil && ctx.Err() == nil:
			s.log.Warn("callbacks not looked at, trying again", "err", err)
		case found:
			s.callBackOne(ctx, client, e)
			continue
		}
		if !sleep(ctx, callbackEvery) {
			return
		}
	}
}

func (s *Service) callBackOne(ctx context.Context, client *http.Client, e store.Export) {
	err := s.post(ctx, client, e)
	if err != nil && ctx.Err() != nil {
		return // due again when its hold is over
	}
	log := s.log.With("export_id", e.ID, "attempt", e.CallbackAttempts)
	problem, again, outcome := "", time.Duration(0), "delivered"
	if err != nil {
		problem, outcome = err.Error(), "failed"
		if waits := callbackWaits(); e.CallbackAttempts <= len(waits) && !errors.Is(err, errForbidden) {
			again, outcome = waits[e.CallbackAttempts-1], "retried"
		}
		log.Warn("callback failed", "err", err, "wait", again)
	} else {
		log.Info("callback delivered")
	}
	s.metrics.callbacks.WithLabelValues(outcome).Inc()
	if err := s.store.EndCallback(ctx, e, problem, again); err != nil {
		log.Warn("callback not noted, it will come again", "err", err)
	}
}

// post sends one callback; everything but an answer of 2xx is an error.
func (s *Service) post(ctx context.Context, client *http.Client, e store.Export) error {
	target, err := url.Parse(e.CallbackURL)
	if err != nil {
		return fmt.Errorf("%w: not a URL", errForbidden)
	}
	if target.Scheme != "https" && (target.Scheme != "http" || !s.config.CallbackHTTP) {
		return fmt.Errorf("%w: scheme %q", errForbidden, target.Scheme)
	}
	body, err := json.Marshal(callbackMessage{
		ExportID: e.ID.String(), Status: e.Status, RowCount: e.Rows, CompletedAt: e.CompletedAt, Error: e.Error,
		Type: e.Type, Format: e.Format, Bytes: e.Bytes, SHA256: e.SHA256,
	})
	if err != nil {
		return fmt.Errorf("encode callback: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callbackTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: %w", errForbidden, err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "picket/"+s.kit.Version)
	request.Header.Set("Picket-Delivery", e.ID.String()+"/"+strconv.Itoa(e.CallbackAttempts))
	if s.config.CallbackSecret != "" {
		timestamp := strconv.FormatInt(time.Now().Unix(), 10)
		request.Header.Set("Picket-Timestamp", timestamp)
		request.Header.Set("Picket-Signature", "v1="+sign(s.config.CallbackSecret, timestamp, body))
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("callback: %w", err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, callbackBody))
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return fmt.Errorf("callback: answered %s", response.Status)
	}
	return nil
}

// sign is the HMAC-SHA256, hex, over the timestamp, a dot and the body: so that neither can be exchanged, and an old message
// can be told from a new one.
func sign(secret, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(timestamp + "."))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// newCallbackClient follows no redirects, uses no proxy, and connects only where it may: the address is judged when it is
// dialed, after the name was resolved, so that no name can promise one address and mean another.
func newCallbackClient(private bool) *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	if !private {
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: %s", errForbidden, address)
			}
			if !public(at.Addr()) {
				return fmt.Errorf("%w: %s is not public", errForbidden, at.Addr())
			}
			return nil
		}
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: callbackTimeout,
			DisableKeepAlives: true, MaxResponseHeaderBytes: callbackBody,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       callbackTimeout,
	}
}

// notPublic are the blocks that lead to no public host, or to one under another address (IANA's special-purpose registries),
// beyond those that netip knows.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.88.99.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("3fff::/20"), netip.MustParsePrefix("5f00::/16"), netip.MustParsePrefix("fec0::/10"),
}

// public says whether an address is that of a host on the Internet.
func public(at netip.Addr) bool {
	at = at.Unmap().WithZone("")
	if !at.IsValid() || !at.IsGlobalUnicast() || at.IsPrivate() {
		return false // loopback, link-local, multicast and unspecified are no global unicast
	}
	for _, block := range notPublic {
		if block.Contains(at) {
			return false
		}
	}
	return true
}
