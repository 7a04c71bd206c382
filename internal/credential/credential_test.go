package credential_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/credential"
	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestHeaders(t *testing.T) {
	t.Setenv("PICKET_SECRET_APP", "t0ken")
	t.Setenv("DATABASE_URL", "postgres://secret")
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	for path, text := range map[string]string{filepath.Join(dir, "token"): "filed\n", outside: "leaked"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	source := credential.Source{Dir: dir}
	got, err := source.Headers([]*picketv1.Header{
		{Name: "X-Plain", Value: "a"},
		{Name: "x-plain", Value: "b"},
		{Name: "Authorization", Value: "Bearer secret:env:PICKET_SECRET_APP"},
		{Name: "X-File", Value: "secret:file:" + filepath.Join(dir, "token")},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := http.Header{"X-Plain": {"a", "b"}, "Authorization": {"Bearer t0ken"}, "X-File": {"filed"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, ref := range []string{
		"secret:env:DATABASE_URL", "secret:file:" + outside, "secret:file:" + filepath.Join(dir, "link"),
		"secret:file:" + filepath.Join(dir, "..", filepath.Base(filepath.Dir(outside)), "outside"), "secret:env:PICKET_SECRET_NONE",
	} {
		_, err := source.Headers([]*picketv1.Header{{Name: "X", Value: ref}})
		if !errors.Is(err, catalog.ErrSecret) || strings.Contains(err.Error(), "leaked") || strings.Contains(err.Error(), "postgres") {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestBearer(t *testing.T) {
	t.Parallel()
	keyring, err := catalog.NewKeyring(bytes.Repeat([]byte{1}, catalog.SealKeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	field := catalog.SealedField{Org: "default", Server: "app", Field: "api_token"}
	until := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	check := func(change func(*picketv1.Credential)) *picketv1.ScheduledCheck {
		c := &picketv1.Credential{
			Sealed: keyring.Seal(field, "new"), Previous: keyring.Seal(field, "old"), PreviousUntil: timestamppb.New(until),
		}
		change(c)
		return &picketv1.ScheduledCheck{Org: "default", Server: "app", Credential: c}
	}
	same := func(*picketv1.Credential) {}
	source := credential.Source{Keyring: keyring}

	b, err := source.Bearer(check(same))
	if err != nil || b.Token != "new" || b.Previous != "old" {
		t.Fatalf("%q %q %v", b.Token, b.Previous, err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, b); strings.Contains(text, "new") || strings.Contains(text, "old") {
			t.Errorf("printed %s", text)
		}
	}
	if !b.Again(401, until.Add(-1)) || !b.Again(403, until.Add(-1)) || b.Again(401, until) || b.Again(500, until.Add(-1)) {
		t.Error("the token before is presented at the wrong time")
	}
	b, err = source.Bearer(check(func(c *picketv1.Credential) { c.Previous = "v1:gone" }))
	if err != nil || b.Token != "new" || b.Again(401, until.Add(-1)) {
		t.Errorf("%v", err)
	}
	if b, err := source.Bearer(&picketv1.ScheduledCheck{}); err != nil || b.Token != "" {
		t.Errorf("a server that wants nothing: %v", err)
	}
	if _, err := (credential.Source{}).Bearer(check(same)); !errors.Is(err, credential.ErrNoKey) {
		t.Errorf("no key: %v", err)
	}
	foreign := check(same)
	foreign.Server = "other"
	if _, err := source.Bearer(foreign); !errors.Is(err, catalog.ErrSeal) {
		t.Errorf("another server's: %v", err)
	}
	broken := check(func(c *picketv1.Credential) { c.Sealed = keyring.Seal(field, "a\r\nb") })
	if _, err := source.Bearer(broken); err == nil || strings.Contains(err.Error(), "a\r") {
		t.Errorf("a token of two lines: %v", err)
	}
}

func TestTLSRefuses(t *testing.T) {
	t.Parallel()
	none := filepath.Join(t.TempDir(), "none")
	for name, options := range map[string]*picketv1.TLSOptions{
		"tls.ca_file":   {CaFile: none},
		"tls.cert_file": {CertFile: none, KeyFile: none},
	} {
		_, _, err := credential.TLS(options)
		if fault, ok := errors.AsType[*health.FieldError](err); !ok || fault.Field != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	config, _, err := credential.TLS(&picketv1.TLSOptions{ServerName: "x", InsecureSkipVerify: true})
	if err != nil || config.ServerName != "x" || !config.InsecureSkipVerify {
		t.Errorf("%+v, %v", config, err)
	}
}
