package exporter

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/picketd/picket/internal/store"
)

// A receiver that fails at first gets the same again; what it gets is signed, and says what the row says.
func TestCallback(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["dir"](t))
	const secret = "a secret of both sides"
	type call struct {
		header http.Header
		body   []byte
	}
	calls := make(chan call, 10)
	var count atomic.Int32
	receiver := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		calls <- call{r.Header, body}
		if count.Add(1) == 1 {
			http.Redirect(rw, r, "/elsewhere", http.StatusTemporaryRedirect) // not followed, and no success
		}
	}))
	t.Cleanup(receiver.Close)
	config := quick()
	config.CallbackSecret, config.CallbackHTTP, config.CallbackPrivate = secret, true, true
	w.start(config, w.blob)
	e := w.ask(store.NewExport{Type: "servers", CallbackURL: receiver.URL + "/done"})
	for n := range 2 {
		got := <-calls
		var message struct {
			ExportID string `json:"export_id"`
			Status   string `json:"status"`
			RowCount *int64 `json:"row_count"`
			SHA256   string `json:"sha256"`
		}
		if err := json.Unmarshal(got.body, &message); err != nil {
			t.Fatal(err)
		}
		row := w.look(e)
		if message.ExportID != e.ID.String() || message.Status != store.ExportCompleted || message.SHA256 != row.SHA256 || message.RowCount == nil {
			t.Errorf("call %d: %s", n, got.body)
		}
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(got.header.Get("Picket-Timestamp") + "." + string(got.body)))
		if want := "v1=" + hex.EncodeToString(mac.Sum(nil)); got.header.Get("Picket-Signature") != want {
			t.Errorf("signature %q, want %q", got.header.Get("Picket-Signature"), want)
		}
	}
	w.until("the callback to be delivered", func() bool { return w.look(e).CallbackState == store.CallbackDelivered })
	if n := count.Load(); n != 2 {
		t.Errorf("%d calls", n)
	}
}

// A callback leads to no inner address, by whatever name, unless that is allowed, and then it fails for good at once.
func TestCallbackForbidden(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stores["dir"](t))
	var called atomic.Int32
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called.Add(1) }))
	t.Cleanup(receiver.Close)
	port := receiver.URL[strings.LastIndex(receiver.URL, ":"):]
	config := quick()
	config.CallbackHTTP = true
	w.start(config, w.blob)
	for _, address := range []string{
		receiver.URL, "http://localhost" + port, "http://[::1]" + port, "http://[::ffff:127.0.0.1]" + port, "http://0.0.0.0" + port,
		"http://2130706433" + port, "http://169.254.169.254/latest", "ftp://example.org/",
	} {
		e := w.ask(store.NewExport{Type: "servers", CallbackURL: address})
		w.until("the callback to "+address+" to fail", func() bool {
			now := w.look(e)
			// A name that does not resolve may do so later; what is forbidden is so for good.
			return now.CallbackState == store.CallbackFailed || now.CallbackError != "" && !strings.Contains(now.CallbackError, errForbidden.Error())
		})
	}
	if n := called.Load(); n != 0 {
		t.Errorf("an inner server was called %d times", n)
	}
}

func TestPublicAddresses(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"1.1.1.1": true, "93.184.216.34": true, "2606:4700::1111": true, "::ffff:1.1.1.1": true,
		"127.0.0.1": false, "127.9.9.9": false, "10.0.0.1": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false,
		"100.64.0.1": false, "0.0.0.0": false, "0.1.2.3": false, "255.255.255.255": false, "224.0.0.1": false, "198.18.0.1": false,
		"::": false, "::1": false, "fe80::1": false, "fe80::1%eth0": false, "fc00::1": false, "fd00:ec2::254": false, "ff02::1": false,
		"::ffff:127.0.0.1": false, "::127.0.0.1": false, "64:ff9b::7f00:1": false, "2002:7f00:1::": false, "2001:db8::1": false,
	} {
		if got := public(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is public: %v, want %v", address, got, want)
		}
	}
	if public(netip.Addr{}) {
		t.Error("no address is public")
	}
}

func TestExportOf(t *testing.T) {
	t.Parallel()
	const id = "0199a1c2-7b1e-7c5d-8f00-1234567890ab"
	for key, want := range map[string]bool{
		id + ".csv": true, id + ".ndjson.gz": true, id + ".parquet": true, id + ".json.zst": true,
		id: false, id + ".exe": false, id + ".csv.gz.gz": false, "backup/" + id + ".csv": false, strings.ToUpper(id) + ".csv": false,
		"link.key": false, "": false, id + ".csv/x": false, "urn:uuid:" + id + ".csv": false,
	} {
		if _, got := exportOf(key); got != want {
			t.Errorf("%q is ours: %v, want %v", key, got, want)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	err := Config{}.Validate()
	for _, name := range []string{"CONCURRENCY", "LEASE", "MAX_TRIES", "KEEP", "SWEEP_INTERVAL", "ORPHAN_GRACE"} {
		if err == nil || !strings.Contains(err.Error(), "PICKET_EXPORT_"+name) {
			t.Errorf("%s is not named: %v", name, err)
		}
	}
	if errors.Is(err, errForbidden) {
		t.Error(err)
	}
}
