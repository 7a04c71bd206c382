package credential_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/picketd/picket/internal/catalog"
	"github.com/picketd/picket/internal/credential"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func withHeader(value string) *picketv1.Check {
	return &picketv1.Check{Kind: "http", Spec: &picketv1.Check_Http{Http: &picketv1.HTTPSpec{
		Url: "http://127.0.0.1", Headers: []*picketv1.Header{{Name: "Authorization", Value: value}},
	}}}
}

// No t.Parallel: it sets the environment.
func TestCheckIsResolvedWithinBounds(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "private")
	for path, content := range map[string]string{filepath.Join(dir, "token"): "from-file\n", outside: "private"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PICKET_SECRET_TOKEN", "from-env")
	t.Setenv("DATABASE_URL", "postgres://private")
	s := credential.Source{Dir: dir}
	for ref, want := range map[string]string{
		"Bearer plain":                               "Bearer plain",
		"secret:env:PICKET_SECRET_TOKEN":             "from-env",
		"secret:file:" + filepath.Join(dir, "token"): "from-file",
	} {
		check := withHeader(ref)
		got, err := s.Check(check)
		if err != nil || got.GetHttp().GetHeaders()[0].GetValue() != want {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
		if check.GetHttp().GetHeaders()[0].GetValue() != ref {
			t.Errorf("%s: the definition itself was changed", ref)
		}
	}
	for _, ref := range []string{
		"secret:env:DATABASE_URL", "secret:file:" + outside, "secret:file:" + filepath.Join(dir, "link"),
		"secret:file:" + dir + "/../" + filepath.Base(filepath.Dir(outside)) + "/private", "secret:env:PICKET_SECRET_NONE",
	} {
		got, err := s.Check(withHeader(ref))
		if !errors.Is(err, catalog.ErrSecret) {
			t.Errorf("%s: %v, %v; want ErrSecret", ref, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "postgres://private") {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
}
