package catalog_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/picketd/picket/internal/catalog"
)

func key(b byte) []byte { return bytes.Repeat([]byte{b}, catalog.SealKeyBytes) }

func keyring(t testing.TB, current []byte, previous ...[]byte) *catalog.Keyring {
	t.Helper()
	k, err := catalog.NewKeyring(current, previous...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var sealedField = catalog.SealedField{Org: "default", Server: "checkout", Check: "health", Field: "headers.Authorization"}

func TestSeal(t *testing.T) {
	t.Parallel()
	old := keyring(t, key(1))
	sealed := old.Seal(sealedField, "Bearer s3cret")
	if !catalog.IsSealed(sealed) || strings.Contains(sealed, "s3cret") || sealed == old.Seal(sealedField, "Bearer s3cret") {
		t.Errorf("sealed %q", sealed)
	}
	rotating := keyring(t, key(2), key(1))
	for name, k := range map[string]*catalog.Keyring{"same": old, "rotating": rotating} {
		if got, err := k.Open(sealedField, sealed); err != nil || got != "Bearer s3cret" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if !old.Current(sealed) || rotating.Current(sealed) || !rotating.Current(rotating.Seal(sealedField, "")) {
		t.Error("a keyring does not know what it seals with")
	}
	if got, err := rotating.Open(sealedField, rotating.Seal(sealedField, "")); err != nil || got != "" {
		t.Errorf("an empty secret: %q, %v", got, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	k := keyring(t, key(1))
	sealed := k.Seal(sealedField, "s3cret")
	refuse := func(name string, k *catalog.Keyring, field catalog.SealedField, value string) {
		t.Helper()
		if got, err := k.Open(field, value); !errors.Is(err, catalog.ErrSeal) || got != "" || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	refuse("another key", keyring(t, key(2)), sealedField, sealed)
	for name, change := range map[string]func(*catalog.SealedField){
		"org":    func(f *catalog.SealedField) { f.Org = "other" },
		"server": func(f *catalog.SealedField) { f.Server = "other" },
		"check":  func(f *catalog.SealedField) { f.Check = "other" },
		"field":  func(f *catalog.SealedField) { f.Field = "headers.X" },
		"border": func(f *catalog.SealedField) { f.Org, f.Server = "defaultc", "heckout" },
	} {
		field := sealedField
		change(&field)
		refuse(name, k, field, sealed)
	}
	for i := range sealed {
		altered := []byte(sealed)
		altered[i] ^= 1
		refuse("altered", k, sealedField, string(altered))
	}
	for _, value := range []string{"", "v1", "v1:::", "v2" + sealed[2:], sealed + ":", sealed[:len(sealed)-1], "plain"} {
		refuse("form", k, sealedField, value)
	}
	for _, length := range []int{0, 16, 31, 33} {
		if _, err := catalog.NewKeyring(make([]byte, length)); err == nil {
			t.Errorf("a key of %d bytes was taken", length)
		}
	}
}

func FuzzOpen(f *testing.F) {
	k := keyring(f, key(1))
	sealed := k.Seal(sealedField, "s3cret")
	f.Add(sealed)
	f.Add("v1:00000000:AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, value string) {
		if got, err := k.Open(sealedField, value); err == nil && got != "s3cret" {
			t.Fatalf("opened a forgery: %q", got)
		} else if err != nil && !errors.Is(err, catalog.ErrSeal) {
			t.Fatal(err)
		}
	})
}
