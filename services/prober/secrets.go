package prober

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/picketd/picket/internal/catalog"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// secretVariable begins the name of every variable that a check may refer to.
// Whoever may edit a server chooses where its headers are sent; the rest of the
// prober's environment is not theirs to send.
const secretVariable = "PICKET_SECRET_"

// secrets resolves what checks refer to. Files lie below dir, for the same reason.
type secrets struct{ dir string }

// resolve returns the check with the values that its headers refer to. A check
// without references comes back as it is.
func (s secrets) resolve(check *picketv1.Check) (*picketv1.Check, error) {
	refers := false
	for _, header := range check.GetHttp().GetHeaders() {
		refers = refers || catalog.IsSecretRef(header.GetValue())
	}
	if !refers {
		return check, nil
	}
	resolved := proto.CloneOf(check)
	for _, header := range resolved.GetHttp().GetHeaders() {
		value, err := catalog.ResolveSecret(header.GetValue(), catalog.SecretLookup{Env: variable, ReadFile: s.file})
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", header.GetName(), err)
		}
		header.Value = value
	}
	return resolved, nil
}

func variable(name string) (string, bool) {
	if !strings.HasPrefix(name, secretVariable) {
		return "", false
	}
	return os.LookupEnv(name)
}

// file reads below the directory only, links followed: os.Root refuses what leads out of it.
func (s secrets) file(path string) ([]byte, error) {
	below, err := filepath.Rel(s.dir, path)
	if err != nil || !filepath.IsLocal(below) {
		return nil, fmt.Errorf("%s is not below %s (PICKET_SECRETS_DIR)", path, s.dir)
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, fmt.Errorf("open the directory of secrets: %w", err)
	}
	data, err := root.ReadFile(below)
	return data, errors.Join(err, root.Close())
}
