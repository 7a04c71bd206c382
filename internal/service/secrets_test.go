package service

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/picketd/picket/internal/catalog"
)

func TestKeyring(t *testing.T) {
	t.Parallel()
	field := catalog.SealedField{Org: "default", Server: "a", Field: "api_token"}
	older, newer := NewSecretKey(), NewSecretKey()
	before, err := Secrets{Key: older}.Keyring()
	if err != nil {
		t.Fatal(err)
	}
	sealed := before.Seal(field, "presented")
	raw, _ := base64.StdEncoding.DecodeString(older)
	for name, spelling := range map[string]string{
		"padded": older, "url": base64.URLEncoding.EncodeToString(raw), "unpadded": base64.RawStdEncoding.EncodeToString(raw),
		"with a line end": older + "\n",
	} {
		after, err := Secrets{Key: newer, PreviousKey: spelling}.Keyring()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := after.Open(field, sealed); err != nil || got != "presented" {
			t.Errorf("%s: opened %q, %v", name, got, err)
		}
		if after.Current(sealed) {
			t.Errorf("%s: the key before counts as the one that seals", name)
		}
	}
}

func TestKeyringFaults(t *testing.T) {
	t.Parallel()
	if keyring, err := (Secrets{}).Keyring(); keyring != nil || err != nil {
		t.Errorf("without keys: %v, %v", keyring, err)
	}
	secret := strings.Repeat("tooshort", 2)
	for variable, faulty := range map[string]Secrets{
		"PICKET_SECRET_KEY is":          {Key: secret},
		"PICKET_SECRET_KEY_PREVIOUS is": {PreviousKey: NewSecretKey()},
		"PICKET_SECRET_KEY_PREVIOUS":    {Key: NewSecretKey(), PreviousKey: secret},
	} {
		_, err := faulty.Keyring()
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), variable) || strings.Contains(err.Error(), secret) {
			t.Errorf("%v: want a fault of %s without its value", err, variable)
		}
	}
}

// TestKeptSecret: of processes that start together all use the same secret, and exactly one has made it.
func TestKeptSecret(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret.key")
	var (
		mu      sync.Mutex
		group   sync.WaitGroup
		secrets = map[string]bool{}
		made    int
	)
	for range 16 {
		group.Go(func() {
			secret, created, err := KeptSecret(path, NewSecretKey)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			secrets[secret] = true
			if created {
				made++
			}
		})
	}
	group.Wait()
	if len(secrets) != 1 || made != 1 {
		t.Errorf("%d secrets, made %d times", len(secrets), made)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %s", info.Mode())
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := os.WriteFile(path, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := KeptSecret(path, NewSecretKey); err == nil {
		t.Error("an empty file was taken for a secret")
	}
}
