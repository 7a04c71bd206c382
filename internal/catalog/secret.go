package catalog

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// References to secrets, which are resolved where the probe is built: `secret:env:NAME` is a variable of the prober's
// environment, `secret:file:/path` a file of its machine, without the line end behind the last line. The word of an
// authentication scheme may stand before it, as in `Bearer secret:env:NAME`.
const (
	secretPrefix     = "secret:"
	secretEnvPrefix  = "secret:env:"
	secretFilePrefix = "secret:file:"

	// sealKeyVariable begins the names of the variables with our own keys, which no check may send anywhere.
	sealKeyVariable = "PICKET_SECRET_KEY"

	// MaxSecretBytes bounds a resolved secret.
	MaxSecretBytes = 64 << 10
)

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// ErrSecret is wrapped by every error of ResolveSecret.
var ErrSecret = errors.New("secret cannot be resolved")

// SecretLookup gives what references point to.
type SecretLookup struct {
	// Env is like os.LookupEnv.
	Env func(name string) (string, bool)
	// ReadFile is like os.ReadFile.
	ReadFile func(path string) ([]byte, error)
}

// IsSecretRef says whether value is a reference and not a value to be sent as it is.
func IsSecretRef(value string) bool {
	_, ref := splitScheme(value)
	return strings.HasPrefix(ref, secretPrefix)
}

// splitScheme takes the word of an authentication scheme, and the space behind it, off a value.
func splitScheme(value string) (scheme, rest string) {
	for _, scheme := range []string{"Bearer ", "Basic ", "Token "} {
		if rest, found := strings.CutPrefix(value, scheme); found {
			return scheme, rest
		}
	}
	return "", value
}

// ResolveSecret returns value itself when it is no reference, else what it points to. Errors wrap ErrSecret and never
// hold the secret. A secret must be one line: it is made for header values.
func ResolveSecret(value string, lookup SecretLookup) (string, error) {
	if !IsSecretRef(value) {
		return value, nil
	}
	scheme, value := splitScheme(value)
	if message := secretRefFault(value); message != "" {
		return "", fmt.Errorf("%w: %s", ErrSecret, message)
	}
	var secret string
	if name, ok := strings.CutPrefix(value, secretEnvPrefix); ok {
		found, set := lookup.Env(name)
		if !set || found == "" {
			return "", fmt.Errorf("%w: the variable %s is not set", ErrSecret, name)
		}
		secret = found
	} else {
		path := strings.TrimPrefix(value, secretFilePrefix)
		data, err := lookup.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrSecret, err)
		}
		secret = strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
		if secret == "" {
			return "", fmt.Errorf("%w: the file %s is empty", ErrSecret, path)
		}
	}
	switch {
	case len(secret) > MaxSecretBytes:
		return "", fmt.Errorf("%w: %s is longer than %d bytes", ErrSecret, value, MaxSecretBytes)
	case strings.ContainsAny(secret, "\r\n\x00"):
		return "", fmt.Errorf("%w: %s holds more than one line", ErrSecret, value)
	}
	return scheme + secret, nil
}

// secretRefFault says what is wrong with a reference; empty: nothing.
func secretRefFault(ref string) string {
	_, ref = splitScheme(ref)
	if name, ok := strings.CutPrefix(ref, secretEnvPrefix); ok {
		if !variableName.MatchString(name) {
			return fmt.Sprintf("secret reference %q must name a variable, as in secret:env:NAME", ref)
		}
		if strings.HasPrefix(name, sealKeyVariable) {
			return fmt.Sprintf("secret reference %q names a key of Picket itself, which is sent to nobody", ref)
		}
		return ""
	}
	if path, ok := strings.CutPrefix(ref, secretFilePrefix); ok {
		if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
			return fmt.Sprintf("secret reference %q must name an absolute path, as in secret:file:/run/secrets/name", ref)
		}
		return ""
	}
	return fmt.Sprintf("secret reference %q must begin with %s or %s", ref, secretEnvPrefix, secretFilePrefix)
}
