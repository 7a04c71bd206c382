package catalog_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/picketd/picket/internal/catalog"
)

func TestResolveSecret(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"/run/token": "s3cret\r\n", "/run/empty": "\n", "/run/lines": "s3cret\ns3cret\n",
		"/run/long": strings.Repeat("x", catalog.MaxSecretBytes+1),
	}
	lookup := catalog.SecretLookup{
		Env: func(name string) (string, bool) { return map[string]string{"TOKEN": "t0ken"}[name], name != "UNSET" },
		ReadFile: func(path string) ([]byte, error) {
			if text, known := files[path]; known {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		},
	}
	for value, want := range map[string]string{
		"plain": "plain", "": "", "Secret:x": "Secret:x",
		"secret:env:TOKEN": "t0ken", "secret:file:/run/token": "s3cret",
		"Bearer secret:env:TOKEN": "Bearer t0ken", "Basic secret:file:/run/token": "Basic s3cret", "Bearer plain": "Bearer plain",
		"My secret:env:TOKEN": "My secret:env:TOKEN",
	} {
		if got, err := catalog.ResolveSecret(value, lookup); err != nil || got != want {
			t.Errorf("%q is %q, %v", value, got, err)
		}
	}
	for _, ref := range []string{
		"secret:", "secret:x", "secret:env:", "secret:env:A B", "secret:env:UNSET", "secret:env:EMPTY", "secret:file:rel",
		"secret:file:/none", "secret:file:/run/empty", "secret:file:/run/lines", "secret:file:/run/long",
		"Bearer secret:", "Token secret:env:UNSET",
	} {
		got, err := catalog.ResolveSecret(ref, lookup)
		if !errors.Is(err, catalog.ErrSecret) || got != "" {
			t.Errorf("%q is %q, %v", ref, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q shows the secret: %v", ref, err)
		}
	}
}
